"""From captions to pictures: models by name, drawing, sheets and files."""
