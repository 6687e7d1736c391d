"""What the `convfirst` command is made of: photos, a classifier, its timing, its memory and its picture."""
