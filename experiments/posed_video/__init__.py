"""What a person has of posed video, read: pictures of any format, scenes in folders with cameras and depth."""
