"""What a person sees: tables, the HTML report, the Chrome trace."""
