"""The page's style: no fonts, images or scripts from anywhere; light and dark; one column on a phone."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #5b6675; --line: #e3e7ec;
  --track: #eceff3; --c1: #3566d6; --c2: #d9742b; --c3: #2b8a67; --note: #fff6e0; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1a2029; --ink: #e7ebf1; --soft: #9aa6b5;
  --line: #2b3440; --track: #262e39; --c1: #7ea2ff; --c2: #f0a25f; --c3: #5cc49a; --note: #33290f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 16px 64px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 44px 0 2px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 0 0 10px; }
p { margin: 4px 0; } .soft { color: var(--soft); overflow-wrap: anywhere; } .small { font-size: .84rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; min-width: 0; }
.grid-2 { display: grid; gap: 14px; margin-top: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); }
.tiles { display: grid; gap: 14px; margin-top: 14px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.tile b { display: block; font-size: 1.55rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: .84rem; }
.note { background: var(--note); border-radius: 8px; padding: 8px 12px; margin: 12px 0 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-top: 1px solid var(--line); vertical-align: top;
  font-size: .9rem; }
thead th { border-top: 0; } th[scope=row] { font-weight: 500; color: var(--soft); white-space: nowrap; }
@media (max-width: 600px) { th[scope=row] { white-space: normal; } }
td { overflow-wrap: anywhere; min-width: 8em; } th.sub { padding-left: 14px; }
svg { display: block; width: 100%; height: auto; max-width: 460px; }
.label, .value { font-size: 11.5px; fill: var(--soft); } .value { fill: var(--ink); }
.on { font-size: 11px; font-weight: 600; fill: var(--card); } .mid { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--line); } .track { fill: var(--track); } .mark { stroke: var(--c2); stroke-dasharray: 4 3; }
.s1 { fill: var(--c1); stroke: var(--c1); } .s2 { fill: var(--c2); stroke: var(--c2); } rect.s1 { stroke: none; }
.line { fill: none; stroke-width: 2; } .range { stroke-width: 1.5; opacity: .55; } .dot { stroke: var(--card); }
.level { stroke-width: 1.5; stroke-dasharray: 5 4; } .l1 { stroke: var(--c3); } .l2 { stroke: var(--soft); }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 14px; padding: 0; margin: 8px 0 0;
  font-size: .84rem; }
.key li::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 6px; }
.k1::before { background: var(--c1); } .k2::before { background: var(--c2); }
.k3::before { background: var(--c3); } .k4::before { background: var(--soft); }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--soft); font-size: .84rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--track); border-radius: 8px; padding: 10px;
  font-size: .82rem; }
"""
