"""Where text comes from: files of several formats and Hugging Face data sets, as rows or paragraphs."""
