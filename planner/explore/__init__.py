"""The space beyond the engines: virtual stages, context, experts, zero bubbles, unlike devices in different stages."""
