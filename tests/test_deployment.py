"""What lesson 10 says of files and servers is what they do."""
