"""Engine adapters read what engines say of themselves: `probe` asks over HTTP, `vllm_metrics` reads vLLM's metrics."""
