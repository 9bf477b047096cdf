"""Published weights into our models: image encoders and BERT (pretrained.py), language models (language.py, which asks
chatglm.py or hf_language.py).

tensor_files.py opens files and lazy_tensors.py names their tensors, unread. fill.py copies them into a model, and
finite.py refuses what is NaN or infinite.
"""
