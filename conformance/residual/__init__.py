"""The residual: errors within the bound must not repeat in anything."""
