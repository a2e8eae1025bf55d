"""The page around the results."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Entropy laboratory: {profile} report</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }}
h1 {{ margin-bottom: 0.2rem; }}
section {{ border-top: 1px solid #ccc; margin-top: 2.5rem; padding-top: 0.5rem; }}
img {{ max-width: 100%; }}
figure {{ margin: 1rem 0; }}
figcaption {{ color: #444; font-size: 15px; }}
table {{ border-collapse: collapse; font-size: 15px; margin: 0.6rem 0; }}
td, th {{ padding: 3px 10px; text-align: left; border-bottom: 1px solid #ddd;
  vertical-align: top; }}
.number {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
dl {{ display: grid; grid-template-columns: 6rem 1fr; gap: 0.2rem 0.8rem; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0; }}
cite {{ color: #555; }}
.badge {{ font-size: 13px; font-weight: 600; padding: 2px 9px; border-radius: 9px;
  white-space: nowrap; border: 1px solid; vertical-align: middle; }}
.reproduced {{ color: #00533b; background: #e0f4ec; }}
.not-reproduced {{ color: #8a3b00; background: #fdeadd; }}
.outside-a-tabular-model {{ color: #333; background: #eee; }}
.failed {{ color: #fff; background: #a00; }}
.not-run {{ color: #333; background: #fff; }}
.older {{ color: #8a3b00; }}
.command {{ font: 14px monospace; background: #f4f4f4; padding: 4px 8px; }}
.up {{ font-size: 14px; font-weight: 400; float: right; }}
.command span {{ color: #555; float: right; }}
pre {{ overflow-x: auto; background: #f4f4f4; padding: 8px; }}
</style>
<h1>Entropy laboratory</h1>
<p>Tabular policies, where everything is exact. Profile <b>{profile}</b>: {seeds} seeds unless an
experiment says otherwise, {minutes} minutes of one core. {counts}. A claim is reproduced if the
whole 95 % interval of every criterion lies within bounds that were written down before; the figure
in the summary is the first criterion not met, or else the first. Every number behind a figure is in
the CSV files that its section links to, in the folder tables beside this page.</p>
<ul id="contents">
{contents}
<li><a href="#changes">Criteria changed after a result was seen</a></li>
</ul>
{summary}
<h2 id="changes">Criteria changed after a result was seen</h2>
{changes}
{sections}
</html>
"""

SUMMARY = """<table><tr><th>claim</th><th>verdict</th><th>criteria met</th><th>figure</th>
<th>measured</th><th>wanted</th></tr>
{lines}
</table>"""
