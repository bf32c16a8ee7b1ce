"""Commands that a page has to show to the last character, and the words that it shows them in."""

HOSTILE = {
    "echo evil #\ruptime": "echo evil #U+000Duptime",
    "uptime; : \x1b]0; echo evil #\x07": "uptime; : U+001B]0; echo evil #U+0007",
    "uptime\x1b[8m; echo evil": "uptimeU+001B[8m; echo evil",
    "uptime \x9b8m; echo evil": "uptime U+009B8m; echo evil",
    "echo evil\b\b\b\bgood": "echo evilU+0008 ×4good",
    "true #\necho evil": "true #U+000A\necho evil",
    "cat\t/etc/shadow": "catU+0009/etc/shadow",
    "echo \u202edlrow": "echo U+202Edlrow",
    "echo \u2066a\u2069\u200fb": "echo U+2066aU+2069U+200Fb",
    "rm\u00a0-r x": "rmU+00A0-r x",
    "up\u200btime": "upU+200Btime",
    "up\u00adtime\u2800": "upU+00ADtimeU+2800",
    "echo \ufe0f\u3164\ue000": "echo U+FE0FU+3164U+E000",
    "echo \U000e0065\U000e0065": "echo U+E0065 ×2",
    "echo a\x7f\u2028b": "echo aU+007FU+2028b",
    f"true {'x' * 3000}; echo evil": f"true {'x' * 3000}; echo evil",
}
