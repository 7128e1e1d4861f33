"""Image and text to Uni-Rep sequence: buckets, crop, codecs, vocabulary, prompts, framing."""
