"""Parts of `evolution`: a family on this machine, and what becomes of texts while its versions change."""
