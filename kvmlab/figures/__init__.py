"""What is seen, as pure functions: records and state in; scenes, rows and sentences out."""
