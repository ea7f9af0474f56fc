"""The style sheet of the page."""

from __future__ import annotations

from jaxtl.report.canvas import THEME


def style_sheet() -> str:
  """Returns CSS for light and dark, wide and narrow pages; it loads nothing external."""
  light = "".join(f"--{name}:{pair[0]};" for name, pair in THEME.items())
  dark = "".join(f"--{name}:{pair[1]};" for name, pair in THEME.items())
  return (
    f":root{{color-scheme:light "
    f"dark;{light}--wash:#f4f6f8;--mark:#fff3d6;--link:#0a5fa5}}\n@media(prefers-color-scheme:dark){{:root{{{dark}--wash:#1d2127;--mark:#3a3118;--link:#7cc0f5}}}}\n{_RULES}"
  )


_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 font-variant-numeric:tabular-nums}
main{max-width:72rem;margin:0 auto;padding:2.5rem 1.5rem 5rem}
p,li{max-width:46rem;overflow-wrap:anywhere}
.eyebrow{margin:0;color:var(--muted);font-size:.8rem;letter-spacing:.06em;text-transform:uppercase}
h1{font-size:clamp(1.6rem,1.1rem + 2.2vw,2.35rem);line-height:1.15;letter-spacing:-.015em;
 margin:.35rem 0 1.1rem;max-width:48rem;overflow-wrap:anywhere;text-wrap:balance}
h2{font-size:1.4rem;line-height:1.25;letter-spacing:-.01em;margin:3.5rem 0 .5rem;padding-top:1.1rem;
 border-top:1px solid var(--line)}
h3{font-size:1.05rem;margin:2.2rem 0 .5rem;overflow-wrap:anywhere}
.lead{font-size:1.2rem;line-height:1.45;margin:0 0 .9rem;max-width:50rem}
.know{margin:0 0 1rem;padding:0;list-style:none}
.know li{position:relative;padding-left:1.1rem;margin:.25rem 0;color:var(--muted)}
.know li::before{content:"";position:absolute;left:0;top:.6em;width:.4rem;height:.4rem;border-radius:50%;
 background:var(--arm-1)}
.facts{display:flex;flex-wrap:wrap;gap:.4rem 2.2rem;margin:1.5rem 0 0;padding:.9rem 0 0;
 border-top:1px solid var(--line)}
.facts div{display:flex;flex-direction:column}
.facts dt{color:var(--muted);font-size:.78rem}
.facts dd{margin:0;font-weight:600}
nav{margin:1.2rem 0 0;font-size:.92rem;display:flex;flex-wrap:wrap;gap:.2rem 1.3rem}
a{color:var(--link);text-underline-offset:.18em}
.note,figcaption{color:var(--muted);font-size:.88rem;line-height:1.5;max-width:50rem;overflow-wrap:anywhere}
figure{margin:0}
figcaption{margin-top:.6rem}
.box{overflow-x:auto;max-width:100%;-webkit-overflow-scrolling:touch}
.box:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.tall{max-height:40rem;overflow:auto}
table{border-collapse:collapse;font-size:.92rem;line-height:1.3;min-width:min(100%,30rem)}
th,td{padding:.45rem .55rem;text-align:right;vertical-align:top;white-space:nowrap}
th.word,td.word{text-align:left}
td.wrap{white-space:normal;min-width:20rem;max-width:44rem;overflow-wrap:anywhere}
thead th{font-weight:600;vertical-align:bottom;border-bottom:1.5px solid var(--ink);font-size:.84rem}
thead tr.groups th{color:var(--muted);font-weight:500;font-size:.76rem;border-bottom:0;padding-bottom:.1rem;
 text-align:left}
thead tr.groups th span{display:block;border-bottom:1px solid var(--line);padding-bottom:.2rem}
tbody tr+tr>*{border-top:1px solid var(--line)}
tbody tr:last-child>*{border-bottom:1.5px solid var(--ink)}
tbody th{text-align:left;font-weight:500;position:sticky;left:0;background:var(--paper);z-index:1}
thead th:first-child{position:sticky;left:0;background:var(--paper);z-index:2}
.tall thead th{position:sticky;top:0;background:var(--paper);z-index:3}
.result thead th{white-space:normal;max-width:8.5rem;overflow-wrap:break-word}
.result tbody th i{position:absolute;left:.4rem;top:.72rem;width:.62rem;height:.62rem;border-radius:2px}
.result th,.result td{padding:.42rem .42rem}
.result tbody th,.result thead th.word{padding-left:1.4rem}
figcaption b{color:var(--ink);font-weight:600}
sub{font-size:.72em;line-height:0}
.result tbody th{max-width:12rem;overflow:hidden;text-overflow:ellipsis}
td a{color:inherit;text-decoration:none;display:block}
td a:hover .mean{text-decoration:underline}
.mean{font-size:.95rem}
.best .mean{font-weight:750}
.beside{font-size:.68rem;color:var(--muted);opacity:.85;margin-left:.22rem}
.spread{display:block;font-size:.76rem;color:var(--muted)}
.few{display:block;font-size:.7rem;color:var(--muted)}
.edge{background:var(--mark)}
tr:target>*{background:var(--mark)}
.figure svg{display:block;width:100%;min-width:44rem;height:auto}
.figure svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
 sans-serif!important}
.images{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.2rem,1fr));gap:.8rem;max-width:58rem}
.images img{display:block;width:100%;aspect-ratio:1;object-fit:contain;
 background:var(--wash);border-radius:4px}
.images .small{image-rendering:pixelated}
.images figcaption{font-size:.74rem;line-height:1.3;margin-top:.25rem;overflow:hidden;text-overflow:ellipsis;
 white-space:nowrap}
details{margin:1rem 0}
summary{cursor:pointer;font-weight:600}
pre{background:var(--wash);padding:1rem;border-radius:6px;overflow:auto;max-height:30rem;font-size:.78rem;
 line-height:1.45}
footer{margin-top:3rem;padding-top:1rem;border-top:1px solid var(--line);color:var(--muted);font-size:.82rem;
 overflow-wrap:anywhere}
@media(max-width:40rem){main{padding:1.5rem 1rem 3rem}.lead{font-size:1.08rem}h2{margin-top:2.6rem}
 th,td{padding:.4rem .5rem}.result thead th{white-space:normal;max-width:8.5rem;overflow-wrap:break-word}
.result tbody th i{position:absolute;left:.4rem;top:.72rem;width:.62rem;height:.62rem;border-radius:2px}
.result th,.result td{padding:.42rem .42rem}
.result tbody th,.result thead th.word{padding-left:1.4rem}
figcaption b{color:var(--ink);font-weight:600}
sub{font-size:.72em;line-height:0}
.result tbody th{max-width:8rem;white-space:normal}td.wrap{min-width:14rem}}
@media print{.box,.tall,pre{overflow:visible;max-height:none}nav{display:none}}
"""
