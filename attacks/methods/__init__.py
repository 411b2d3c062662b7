"""One file per attack. May import every other room of the attacks; nothing but the registry in ``attacks`` imports it."""
