"""Pictures as inline SVG: their colours are the page's, in light and in dark."""
