"""entropy_ext inside other people's trainers; each module needs the trainer it is named after."""
