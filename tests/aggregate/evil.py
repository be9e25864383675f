"""Ten strings that have broken reports, and what each means to do."""

EVIL = {
    "ends a Markdown cell": r"a | b \| c",
    "reads a file in LaTeX": r"\input{/etc/passwd} & 5% #1 $x^2$ a_b ~",
    "is a formula in a spreadsheet": "=cmd|'/C calc'!A0",
    "is a formula after a blank": "\t +1+1; @SUM(A1)",
    "runs in a browser": "<script>alert('1')</script> &amp; [x](javascript:alert(1))",
    "is an unknown tag in a terminal": "[/oops] [bold red]",
    "moves a terminal's cursor": "\x1b[2J\x1b]0;owned\x07",
    "starts a new row": "one\ntwo\r\n| three | \u2028 four \\\\",
    "is read backwards": "\u202egnp.exe \u2066 a\u200bb",
    "is the argument of a line's end": '[9cm]*{`_x_`}**bold** ![i](j) "q" ^',
}
