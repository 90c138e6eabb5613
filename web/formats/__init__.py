"""How dates and times are written on pages that Django formats: as everywhere here, so that they sort."""
