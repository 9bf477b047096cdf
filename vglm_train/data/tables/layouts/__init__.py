"""Layouts of published data sets: what their files hold, as rows with the usual keys.

rows.py: keys of single data sets. image_names.py: pictures that are named by a number. join.py: rows whose halves are
in two lists or files (coco.py, vqa.py, chinese_clip.py). tars.py: folders of tars, such as img2dataset's.
"""
