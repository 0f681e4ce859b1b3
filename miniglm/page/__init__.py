"""The chat page's parts: words (both languages), markup (shown as HTML), talks, controls, visitors, look, lessons.

style.css and page.js are its looks and what the browser does alone: the talks that it keeps.
"""
