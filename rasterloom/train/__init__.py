"""FP-SFT: stages, plan, loader, model, loss, engine, checkpoints, sampling."""
