"""What takes long: whole folders compressed, fine-tuned, evaluated."""
