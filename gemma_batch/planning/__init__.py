"""Planning: everything that is known before money is spent; it writes nothing (driver, laptop)."""
