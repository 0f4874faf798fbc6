"""Teacher labels for knowledge distillation: computed once, stored, shared, and replayed exactly."""
