"""``heron-mqtt report``: a run, or two side by side, as one HTML file that needs nothing else.

``figures`` and ``tables`` take from a record what is shown, ``page`` writes the HTML. uPlot (MIT, see
assets/uPlot-LICENSE.txt) draws; without JavaScript every figure is a table.
"""
