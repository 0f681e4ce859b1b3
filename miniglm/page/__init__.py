"""The chat page's parts: words (both languages), markup (what is shown as HTML), talks, controls, visitors, look.

style.css and page.js are its looks and what the browser does alone: the talks that it keeps.
"""
