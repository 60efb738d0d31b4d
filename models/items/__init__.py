"""Item representations: learned, frozen, fused, adapted, or an encoder that trains; no recommender knows which."""
