"""The drawing page: draw, and a sketch-rnn draws on. ``python -m jaxrnn.demo RUN`` serves it.

``artist`` is the model in the page's coordinates, ``messages`` what the page may ask for,
``server`` and ``guard`` the web application, ``page/`` what the browser gets.
"""
