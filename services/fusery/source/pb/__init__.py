"""Generated from proto/ by scripts/proto.sh; never edited by hand."""
