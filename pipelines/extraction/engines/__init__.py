"""Ways to run units: every engine gives the same archive."""
