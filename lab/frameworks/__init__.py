"""Frameworks that speak an edge node's APIs: their own examples of tools and schemas, run against one."""
