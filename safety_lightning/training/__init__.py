"""Fine-tunes: the module, the callbacks, and the ways to project in other trainers and plain loops."""
