"""A page in the browser to talk to a trained model: `vglm web BUNDLE`.

`page` is what one sees, in Gradio; `page.css` and `page.js` belong to it. `conversation` is one person's talk with the
model and `pages` holds those of everybody, all in memory: nothing of them is written to disk. `render` makes HTML,
`words` holds the texts, `notice` decides on the medical warning. `server` puts it together, behind `gate`, which
decides what is let in.
"""
