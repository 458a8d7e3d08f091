"""Laws: what one output says about another, without any oracle."""
