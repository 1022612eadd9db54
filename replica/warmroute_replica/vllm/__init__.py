"""Real vLLM replicas run on this machine's CPU: this package installs the engine, makes a tiny model, runs replicas.

This module decides how a local vLLM is set up for demos, tests and experiments. It is not for production, which
brings its own replicas. It uses the standard library only, outside the engine's own virtual environment.

    install             the CPU build, without a single CUDA package
    wheel_requirements  what a wheel asks for (run inside the environment)
    model               a tiny random-weight model, made once
    tiny_model          the maker itself (run inside the environment)
    processes           which processes belong to a replica, and how to end them all
    server              one replica: start, health, end
    launch              several at once: Fleet
    command             `warmroute-replica vllm-…`
"""
