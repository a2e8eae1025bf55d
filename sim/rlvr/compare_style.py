"""The page around a comparison's results."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Recipes side by side</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }}
h1 {{ margin-bottom: 0.2rem; }}
section {{ border-top: 1px solid #ccc; margin-top: 2.5rem; padding-top: 0.5rem; }}
figure {{ margin: 1rem 0; }}
figure svg {{ max-width: 100%; height: auto; }}
figcaption, .note, .legend {{ color: #444; font-size: 15px; }}
table {{ border-collapse: collapse; font-size: 15px; margin: 0.6rem 0; }}
td, th {{ padding: 3px 12px; text-align: right; border-bottom: 1px solid #ddd;
  font-variant-numeric: tabular-nums; white-space: nowrap; }}
tr:first-child th {{ white-space: normal; vertical-align: bottom; }}
td:first-child, th:first-child {{ text-align: left; }}
tr:not(:first-child) th {{ font-weight: 500; }}
.profiles {{ display: flex; flex-wrap: wrap; gap: 1rem 2rem; }}
.recipe {{ min-width: 16rem; }}
h4 {{ margin: 0.4rem 0; border-left: 6px solid; padding-left: 0.5rem; }}
.line {{ margin: 5px 0; white-space: nowrap; }}
.prompt {{ font: 16px monospace; color: #555; margin-right: 6px; }}
.token {{ display: inline-block; font: 16px/1.35 monospace; min-width: 0.9em; text-align: center;
  padding: 1px 2px; margin-right: 1px; border-bottom: 4px solid transparent; }}
.fork {{ border-bottom-color: #d55e00; font-weight: 700; }}
.verdict {{ margin-left: 8px; color: #555; }}
.command {{ font: 14px monospace; background: #f4f4f4; padding: 6px 8px; overflow-wrap: anywhere; }}
</style>
<h1>Recipes side by side</h1>
<p>{runs} runs of small transformers ({size}, one token per character) on tasks of reasoning-gym,
trained to {warm} right answers or as far as the warm-up went, then by reinforcement learning:
{steps} steps of {prompts} prompts × {group} responses, {updates} optimizer steps each, AdamW at
{rate}. All recipes of a seed start from the same policy and differ in the recipe alone. Models this
small show how the recipes differ, not which is best for a language model.</p>
<p class="command">{command}</p>
{sections}
</html>
"""
