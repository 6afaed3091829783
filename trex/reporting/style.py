"""The style sheet of the report. The palette is that of Okabe and Ito, which color-blind readers can distinguish."""

STYLE = """
:root{--ink:#1c2128;--soft:#5b6470;--line:#d9dee4;--paper:#fff;--shade:#f5f7f9;--best:#eaf3ec;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8579a;--c4:#c08a00;--c5:#3d9bd6;--c6:#7a5c3e;--c7:#555}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4b0;--line:#343b44;--paper:#14181d;--shade:#1c2229;
--best:#1d3326;--c0:#56b4e9;--c1:#ff8f47;--c2:#2ec79a;--c3:#e08cc5;--c4:#f0c040;--c5:#8ccbf2;--c6:#c9a27a;--c7:#bbb}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink)}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1160px;margin:0 auto;padding:40px 28px 60px}
h1{font-size:28px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 14px}
.lead{font-size:17px;color:var(--soft);margin:0 0 10px}
section{margin-top:40px;padding-top:22px;border-top:1px solid var(--line)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:4px 0 14px}
th,td{padding:6px 14px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
thead th{color:var(--soft);font-weight:600;border-bottom:2px solid var(--line)}
.left{text-align:left}
th:first-child{padding-left:0}
td:last-child{padding-right:4px}
td.best{background:var(--best);font-weight:600}
details{margin:6px 0}
summary{cursor:pointer;color:var(--soft)}
summary:hover{color:var(--ink)}
.notes{color:var(--soft);font-size:13.5px;padding-left:18px;margin:18px 0 0}
.grid-two{display:grid;grid-template-columns:repeat(auto-fit,minmax(430px,1fr));gap:22px 32px}
figure{margin:0}
figure.half{max-width:680px}
figcaption,.caption{color:var(--soft);font-size:13.5px;margin-top:2px}
.warning{color:var(--c1);font-size:13.5px;margin:2px 0}
.none{color:var(--soft)}
svg{width:100%;height:auto;display:block}
.grid,.tickmark{stroke:var(--line);stroke-width:1}
.mark{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 4}
text{fill:var(--soft);font:11.5px system-ui,sans-serif;font-variant-numeric:tabular-nums}
text.label{fill:var(--ink);font-size:12.5px}
text.axis{font-size:12px}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.dashed{stroke-dasharray:5 4}
.whisker{stroke-width:2;opacity:.55}
.dot{stroke:none}
.ring{fill:none;stroke-width:1.6}
.legend{display:flex;flex-wrap:wrap;gap:6px 20px;margin:8px 0 0}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:7px;vertical-align:-1px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 18px;font-size:13.5px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
pre{background:var(--shade);padding:14px 16px;border-radius:6px;overflow:auto;font-size:12.5px;line-height:1.45}
footer{margin-top:50px;color:var(--soft);font-size:13px}
""" + "".join(
    f".line.s{i},.whisker.s{i},.ring.s{i}{{stroke:var(--c{i})}}.dot.s{i}{{fill:var(--c{i})}}"
    f".swatch.s{i}{{background:var(--c{i})}}"
    for i in range(8)
)
