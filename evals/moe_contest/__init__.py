"""One MoE layer, several implementations: judged, then timed side by side."""
