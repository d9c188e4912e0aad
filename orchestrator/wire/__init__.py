"""What goes over the wire: OpenAI's and Anthropic's JSON, to our types and back. Pure."""
