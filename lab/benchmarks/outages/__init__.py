"""Parts of `outages`: texts that meet one, and a thousand devices that come back after it."""
