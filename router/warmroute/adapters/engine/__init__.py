"""What engines say of themselves: `probe` asks over HTTP, `vllm_metrics` reads vLLM's metrics text."""
