"""Published weights into our models: image encoders and BERT (pretrained.py), language models (language.py, which asks
chatglm.py or hf_language.py), from files that tensor_files.py opens and lazy_tensors.py names, unread.
"""
