"""What runs beside, or instead of, a vLLM server: the simulated replica (`sim`) and the real ones' set-up (`vllm`).

Imports nothing of `router`: the simulator is the router's oracle, and an oracle that shares code with what it judges
shares its mistakes.
"""
