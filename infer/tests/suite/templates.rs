//! Chat templates as transformers renders them, in a Python that has it; see `ckpt_kit::peers`.

use ckpt_infer::{Message, Template};
use ckpt_kit::peers;
use serde_json::{Value, json};

/// What templates in use do, one thing each.
const TEMPLATES: &[&str] = &[
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}[{{ m.content }}]{% endif %}\n{% endfor %}",
    "{%- for m in messages -%}\n  {%- generation -%}\n  {% set x = m.content %} {{ x }}\n  {%- endgeneration -%}\n{%- endfor -%}{{ x is defined }}",
    "{{ strftime_now('%Y') }}{% if strftime_now is defined %} {{ strftime_now(\"%d %b %Y\") }} {{ strftime_now('%B %d, %Y') }}{% endif %}",
    "{% if tools is iterable %}tools{% else %}none{% endif %}{{ tools is none }}{{ documents is none }}{{ nothing is iterable }}",
    "{{ messages is iterable }}{{ messages[0].content is iterable }}{{ messages[0].content is sequence }}{{ messages[0] is sequence }}{{ 1 is sequence }}{{ tools is sequence }}{{ nothing is sequence }}",
    "{{ messages[0] is mapping }}{{ messages is mapping }}{{ messages[0].content is string }}{{ true is number }}{{ 1 is number }}",
    "{{ {'b': 1, 'a': [true, none, 1.5], 'ü': {}} | tojson }}{{ [] | tojson }}{{ {} | tojson }}",
    "{{ {'b': 1, 'a': [true, {'x': []}], 'é': '<a href=\"x\">&\\'\\n\\t\\\\'} | tojson(indent=2) }}",
    "{{ {'b': 1, 'a': 'é🤯'} | tojson(ensure_ascii=true, sort_keys=true) }}{{ [1, 2] | tojson(separators=(',', ':')) }}",
    "{{ [1, {'a': 2}] | tojson(indent=4, separators=(', ', ' = ')) }}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{% if loop.last %}{% break %}{% endif %}{{ loop.index }}{{ m.role }}{% endfor %}",
    "{{ none }}{{ true }}{{ [1, 'a', none] }}{{ {'a': 1} }}{{ 1.0 }}{{ 7 // 2 }}{{ 'a' ~ true }}{{ none ~ 1 }}",
    "{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}{{ 'a=b=c'.partition('=')[2] }}{{ 'a=b=c'.rpartition('=')[0] }}{{ 'a,b'.rsplit(',')[-1] }}{{ 'a,b,c'.rsplit(',', 1) | join('|') }}{{ 'a,b,c'.rsplit(',', -1) | join('|') }}{{ 'a'.rsplit(',', 0) | join }}",
    "{{ messages[0].content.split('e')[0] }}{{ '  x '.strip() }}|{{ 'x\\n'.rstrip('\\n') }}|{{ 'aXb'.lower() }}{{ 'ab'.startswith('a') }}{{ 'x'.upper() }}{{ 'the end'.title() }}",
    "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.n }}",
    "{% macro turn(m, end='!') %}<{{ m.role }}>{{ m.content }}{{ end }}{% endmacro %}{{ turn(messages[0]) }}{{ turn(messages[1], end='?') }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ (messages | selectattr('role', 'equalto', 'user') | list) | length }}{{ messages | rejectattr('role', '==', 'user') | list | length }}",
    "{{ messages[1:] | length }}{{ messages[::-1][0].content }}{{ messages[-1]['content'][:2] }}{{ messages[0].get('name', 'no name') }}{{ 'role' in messages[0] }}",
    "{{ bos_token + 'x' + eos_token }}{{ messages[0].content | trim | upper | replace('B', 'b') | length }}{{ '%s-%d' | format('a', 3) }}",
    "{%- if messages[0]['role'] == 'system' -%}\n    {%- set system = messages[0]['content'] -%}\n    {%- set rest = messages[1:] -%}\n{%- endif -%}\n    {{ system }}\n  {% for m in rest %}\n  {{ m.content }}\n  {% endfor %}\nend",
    "{# a comment {% generation %} #}{{ '{% generation %}' }}{% raw %}{% generation %}{{ x }}{% endraw %}",
    "{% for key, value in {'a': 1, 'b': 2}.items() %}{{ key }}={{ value }};{% endfor %}{% for a, b in [(1, 2)] %}{{ a + b }}{% endfor %}{{ dict(a=1) | tojson }}",
    "{% if not nothing %}{{ nothing or 'default' }}{% endif %}{{ nothing | default('d') }}{{ messages[0].missing is defined }}{{ messages[0].missing is not none }}",
    "{% set text %}\n  {{ messages[0].content }} \n{% endset %}[{{ text }}]{% filter upper %}a{{ bos_token }}{% endfilter %}{{ 'a' 'b' }}",
    "{{ 0 < 1 < 2 }}{{ 3 > 2 > 2 }}{{ 2 ** 3 }}{{ 7 % 4 }}{{ -7 // 2 }}{{ 1 == 1.0 }}{{ 'a' in 'abc' }}{{ 1 in [1] }}{{ 'x' if false }}",
    "{% macro outer(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) outer('in') %}{{ y }}!{% endcall %}{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% for m in messages %}{{ loop.length }}{{ loop.revindex }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if not loop.last }}{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% endfor %}{{ {'b': 2, 'a': 1} | dictsort }}{{ [3, 1, 2] | sort }}{{ ['a', 'b'] | first }}{{ ['a', 'b'] | last }}{{ [1, 2] | sum }}",
    "{{ 'a\\nb' | indent(2) }}{{ 'x' | string }}{{ '5' | int + 1 }}{{ 2.5 | round }}{{ [1, [2]] | string }}{{ 'a b' | title }}{{ messages | length > 2 and true }}{{ true is true }}{{ none is none }}{{ 'a' is in ['a'] }}",
    "{%- set content = '<think>\\nwhy\\n</think>\\n\\nanswer' %}{{ content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}|{{ content.split('</think>')[-1].lstrip('\\n') }}|{{ 'a\\nb'.splitlines() }}|{{ 'a' * 3 }}",
    "{{ {'type': 'object', 'properties': {'x': {'type': ['string', 'null']}}} | tojson(indent=4) }}{% set d = {'a': {'b': [1]}} %}{{ d.a.b[0] }}{{ d['a'].get('c') }}{{ d.a.c is defined }}{% if d.a.c %}x{% endif %}",
    "{% if messages[0].content is string and messages[0].content is not mapping %}s{% endif %}{% if messages[0].tool_calls is defined or messages[0].tool_calls is not none %}t{% endif %}{{ messages[0].tool_calls }}{{ (messages | last).role }}",
    "{%- for m in messages %}\n    {{- '<|' + m['role'] + '|>' -}}\n    {{ m['content'] | trim + '\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|assistant|>' }}\n{%- endif %}\n",
    "{{ 'a b'|urlencode }}{{ 'a/b?é&=+~'|urlencode }}{{ {'a b':'c&d','e':1}|urlencode }}{{ [['a','b'],['c','d']]|urlencode }}{{ 5|urlencode }}",
    "{{ '%.2f'%3.14159 }}{{ '%s and %s'%('a','b') }}{{ '%d%%'%5 }}{{ '%(k)s'%{'k':'v'} }}{{ '%r'%\"it's\" }}{{ '%s'%none }}{{ '%s'%true }}{{ '%c'%'x' }}{{ '%s' % [1, 'a'] }}{{ '%s' % 1e17 }}",
    "{{ '%5s|%-5s|%05d|%+d|%x|%X|%o|%e|%g'%('a','b',42,3,255,255,8,1.5,0.0001) }}{{ '%s=%r;' % (messages[0].role, 'x') ~ '!' }}{{ '%-6s|' % 'ab' if true else 'x' }}",
    "{{ 7 % 3 }}{{ -7 % 3 }}{{ 7 % -3 }}{{ -7.5 % 2 }}{{ 7.5 % -2 }}{{ 1 + 2 * 7 % 4 - 1 }}{{ 2 ** 3 % 5 }}{{ true % 2 }}{% for m in messages %}{% if loop.index0 % 2 == 0 %}{{ m.role }}{% endif %}{% endfor %}{{ (messages | length) % 2 }}{{ 7 % 4 is odd }}{{ -(7 % 4) ~ 5 % 3 }}{{ [1 % 2, 3 % 2] }}",
    "{{ 'x-y  z.w it\\'s'|wordcount }}{{ 'x'|center(5) }}|{{ 'x'|center }}|{{ 'xy'|center(5) }}|{{ ''|center(3) }}|",
    "{{ 'hello world foo'|truncate(8) }}{{ 'hello world foo'|truncate(8,true) }}{{ 'hello world foo'|truncate(8,true,'~',0) }}{{ 'hello world'|truncate(9) }}{{ 'helloworldfoo'|truncate(5, leeway=0) }}",
    "{{ 123456|filesizeformat }}{{ 1024|filesizeformat(true) }}{{ 0|filesizeformat }}{{ 1|filesizeformat }}{{ 1e30|filesizeformat }}{{ 1e16|filesizeformat(binary=true) }}{{ '300'|filesizeformat }}",
    "{{ '<b>x</b> y'|striptags }}{{ '<!-- a > b -->c &amp; d < e'|striptags }}{{ '<a\\'\"&>'|escape }}{{ '<a>'|e }}{{ '<a>'|forceescape }}{{ '<a>'|safe }}{{ '<'|e|forceescape }}",
    "{{ {'b':1,'A':2}|dictsort(false,'value') }}{{ {'b':1,'A':2}|dictsort(true) }}{{ {'b':1,'A':2}|dictsort }}{{ {'b':1,'A':2}|dictsort(reverse=true) }}{{ ['a','A']|unique(true)|list }}{{ ['a','A','b']|unique|list }}{{ messages|unique(attribute='role')|map(attribute='role')|list }}",
    "{{ 'a\\nb'|indent('> ') }}{{ 'a\\n\\nb'|indent(2) }}{{ 'a\\n\\nb'|indent(2, true, true) }}{{ 'a\\r\\nb\\n'|indent(width=1, first=true) }}|{{ ''|indent }}|{{ {'a':1,'b':none,'c':'<'}|xmlattr }}",
    "{% set c=cycler('a','b') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set j=joiner(', ') %}{{ j() }}a{{ j() }}b{{ lipsum is defined }}{{ range is callable }}{{ 1 is callable }}{{ nothing is callable }}",
    "{{ 'abc'.index('b') }}{{ 'abcb'.rindex('b') }}{{ 'aébb'.find('b', 3) }}{{ 'abcabc'.rfind('a', 0, 3) }}{{ 'abc'.find('z') }}{{ 'aaa'.count('a', 1) }}{{ 'abc'.count('') }}{{ [1,2].index(2) }}{{ 'abc'.find('c', -1) }}",
    "{{ 'abc'.zfill(5) }}{{ '-5'.zfill(4) }}|{{ 'abc'.ljust(5) }}|{{ 'abc'.rjust(5,'*') }}|{{ 'abc'.center(6,'-') }}|{{ 'aB'.swapcase() }}{{ 'ß'.casefold() }}{{ 'a\\tb'.expandtabs(4) }}|{{ \"it's fOO\".title() }}",
    "{{ 'Ab Cd'.istitle() }}{{ 'ab'.isidentifier() }}{{ '1a'.isidentifier() }}{{ '½'.isnumeric() }}{{ '½'.isdigit() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ 'é'.isalpha() }}{{ 'a\\u0301'.isalpha() }}{{ 'a1'.isalnum() }}{{ 'a\\x00'.isprintable() }}",
    "{{ 'a\\x0bb\\r\\nc\\u2028d\\n'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}{{ ''.splitlines() }}{{ 'a.b'.partition('.') }}{{ 'a.b.c'.rpartition('.') }}{{ 'a'.partition('.') }}",
    "{{ '{!r} {:>4}|{!s:<3}|'.format('q', 'a', 1) }}{{ '{0!r}{1}'.format('a', 'b') }}{{ '{:.2f}{:,}'.format(1.234, 1234567) }}{{ '{{}} {!r}'.format(1.0) }}",
    "{{ {'a':1}.items() }}{{ {'a':'x'}.keys() }}{{ {'a':1}.values() }}{{ {'a':1}.items()|list }}{{ {'a':1}.keys()|list }}{{ {'a':1}.keys()|length }}{% for k in {'a':1}.keys() %}{{ k }}{% endfor %}{{ 'a' in {'a':1}.keys() }}{{ {'a':1}.items() | tojson if false else 'x' }}",
    "{{ range(3) }}{{ range(1, 10, 3) }}{{ range(5, 0, -2)|list }}{{ range(3)|list }}{{ range(4)[1] }}{{ range(3)|length }}{% for i in range(2) %}{{ i }}{% endfor %}{{ 2 in range(3) }}{{ range(0)|list }}{{ range(3)|sum }}",
    "{{ 1e16 }}{{ 1e15 }}{{ 1e-5 }}{{ 0.0001 }}{{ -0.0 }}{{ 1.5e300*1e10 }}{{ [1e16, 1e-7, 2.0] }}{{ {'a': 1e22} }}{{ 1e16|string }}{{ [1e17, 2]|join(',') }}{{ 123456789.123 }}{{ 1e100|tojson }}{{ [1e16, 0.1]|tojson }}",
    "{{ ['\\u200b\\x00\\x7f\\xa0é\\u3000'] }}{{ ['a\\'b', 'a\"b', 'a\\'\"b', '\\\\'] }}{{ {'k': ('a', [1], {})} }}{{ ('a',) }}{{ () }}{{ [none, true, nothing] }}",
    "{{ messages[0]|attr('role') }}|{{ namespace(a=1)|attr('a') }}|{{ 'x'|attr('y') if false }}{{ {'b':[1,'x'], 'a': 'q'}|pprint }}{{ 'abc'|pprint }}{{ 1.0|pprint }}",
    "{{ '\\x41\\u00e9\\101\\/\\d\\a' }}{{ 'a\\\\nb' }}{{ 'it\\'s' }}{{ \"\\\"\" }}{{ 'a%b' }}{{ '\\t'|length }}{{ '\\U0001F600' }}",
    "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }};{% endmacro %}{{ f(1) }}{{ f(1, 3, 4, 5, k='v') }}{{ f(b=1, c=2) }}{{ f(1, a=3) }}",
    "{% macro f() %}{{ varargs|join('-') }}{% for x in varargs %}<{{ x }}>{% endfor %}{% endmacro %}{{ f() }}{{ f('a', [1]) }}{% macro g() %}{{ kwargs.x }}{{ kwargs|length }}{{ caller() }}{% endmacro %}{% call g(x=1, y=2) %}in{% endcall %}",
    "{% macro f(varargs) %}{{ varargs }}{% endmacro %}{{ f(1) }}{% macro g(a) %}{{ a }}{{ x.varargs }}{% endmacro %}{{ g(2) }}{% macro h(n) %}{{ n }}{{ varargs }}{% if n %}{{ h(n - 1, n) }}{% endif %}{% endmacro %}{{ h(2, 'a') }}",
    "{% macro f() %}{{ varargs }}{% endmacro %}{{ f(k=1) }}",
    "{% macro f() %}{{ kwargs }}{% endmacro %}{{ f(1) }}",
    "{{ 'a' ~ 1e16 ~ [1e22, 'x'] ~ {'k': none} ~ (1, ) ~ nothing ~ true }}{{ 1 + 2 * 3 ~ 4 if 'a' ~ 'b' == 'ab' }}{{ 'x' ~ 7 % 4 ~ -1 ~ 2 ** 3 }}{{ ('a' ~ 'b')|upper ~ 'c'|upper ~ messages[0].role }}",
    "{% set x = 'a' ~ 'b' ~ '~' %}{{ x }}{{ [x ~ 1, x ~ 2]|join(x ~ '|') }}{{ {'k': x ~ x}['k'] }}{% if not nothing ~ '' %}empty{% endif %}{{ x is string ~ 'z' }}{% for c in 'a' ~ 'b' %}[{{ c }}]{% endfor %}",
    "{{ ' a '['strip']() }}{{ {'a': 1}['get']('b', 'c') }}{{ messages[0]['content']['upper']()['lower']() }}{{ 'a,b'['split'](',')[1] }}{% macro f(x) %}<{{ x }}>{% endmacro %}{{ {'f': f}['f']('y') }}{{ ([f]|first)('z') }}{{ {'f': f}.f(1) }}",
    "{{ '{:%} {:.1%} {:+.0%} {:.2%}'.format(0.5, 0.1234, 1, true) }}{{ '{} {}'.format(1e16, ['a', none]) }}{{ '{1}{0}'.format(1e22, {'a': 1.0}) }}{{ '{a}{}'.format(2.50, a=1) }}{{ '{0[0]}'.format(['q']) }}{{ '{:>4}'.format('a') }}",
    "{{ 'abc'|int }} {{ 'abc'|int(7) }} {{ '1_000'|int }} {{ '1__0'|int }} {{ '4.9'|int }} {{ ' -12 '|int }} {{ '0x1f'|int(0, 16) }} {{ '101'|int(base=2) }} {{ [1]|int }} {{ none|int }} {{ true|int }} {{ -3.7|int }} {{ '1e3'|int }} {{ ''|int }}",
    "{{ 'abc'|float }} {{ 'abc'|float(1.5) }} {{ '1_0.5'|float }} {{ [1]|float }} {{ none|float }} {{ 3|float }} {{ 'inf'|float }} {{ true|float }}",
    "{{ '%d' % 3.9 }} {{ '%d|%i' % (-3.9, 1e3) }} {{ {'a': 1}.copy() }} {{ [1, 2].copy() }} {{ {}.copy() }}",
    "{{ 2|round(0, 'ceil') }} {{ 1|round(1, 'floor') }} {{ 2.25|round(1) }} {{ 2.5|round }} {{ 2.41|round(1, 'ceil') }} {{ 2|round }} {{ 1234|round(-2) }} {{ 1234|round(-2, 'floor') }} {{ 2.49|round(method='floor', precision=1) }}",
    "{{ ['a'] is lower }} {{ ['A'] is upper }} {{ 'aB' is lower }} {{ 'a1' is lower }} {{ '1' is upper }} {{ none is lower }} {{ 1.0 is odd }} {{ 2 is even }} {{ 1.5 is odd }} {{ true is odd }} {{ -3 is odd }} {{ -4 is even }}",
    "{{ none is odd }}",
    "{{ nothing|int }}",
    "{{ raise_exception('no') }}",
];

/// What Jinja2 renders, and what is refused here, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("{{ 'a b'|wordwrap(3) }}", "wordwrap"),
    ("{{ 'http://a.b'|urlize }}", "urlize"),
    ("{{ ['a', 'a']|random }}", "another item each time"),
    ("{{ '\\N{BULLET}' }}", "names"),
    ("{{ '{:8.1%}'.format(0.5) }}", "not supported"),
    ("{{ '{:>{}}{:%}'.format('a', 3, 1) }}", "places in places"),
    ("{{ ('a'|attr('upper'))() }}", "attr gives a method"),
    ("{{ [1, 2]|truncate(3) }}", "truncate of a"),
    ("{{ '99999999999999999999'|int }}", "64 bits"),
];

#[test]
fn what_is_not_rendered_as_by_transformers_is_refused_with_the_reason() {
    for (template, why) in REFUSED {
        let template = Template::Jinja((*template).to_string());
        let error = template.render(&[], ("<s>", "</s>"), None).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

fn messages() -> Vec<(&'static str, &'static str)> {
    vec![("system", "Be brief."), ("user", "Hi {{ x }}"), ("assistant", "Hello\n"), ("user", "Bye é")]
}

/// The templates in the folder that `CKPT_TEMPLATES` names, such as llama.cpp's, which `.ci/peers templates` fetches.
fn others() -> Vec<(String, String)> {
    let Some(folder) = std::env::var_os("CKPT_TEMPLATES") else { return Vec::new() };
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut named: Vec<(String, String)> = files
        .filter(|path| path.extension().is_some_and(|e| e == "jinja"))
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into(), std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    named.sort();
    assert!(!named.is_empty(), "there are no templates");
    named
}

/// The date in Python's words, which is that of this test: the two programs run within a moment.
fn clock(format: &str) -> Option<String> {
    let python = peers::python(&["transformers"])?;
    let code = "import sys, datetime; print(datetime.datetime.now().strftime(sys.argv[1]), end='')";
    Some(python.code(code, &[format]))
}

#[test]
fn templates_are_rendered_as_by_transformers() {
    let Some(python) = peers::python(&["transformers", "jinja2"]) else { return };
    let turns = messages();
    let own = TEMPLATES.iter().map(|template| (template.to_string(), template.to_string()));
    let templates: Vec<(String, String)> = own.chain(others()).collect();
    let asked = json!({
        "templates": templates.iter().map(|(_, template)| template).collect::<Vec<_>>(),
        "messages": turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect::<Vec<_>>(),
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("asked.json");
    std::fs::write(&file, asked.to_string()).unwrap();
    let wanted = peers::json(&python.script("infer", "templates.py", &[&file]));
    let turns: Vec<Message> = turns.into_iter().map(|(role, content)| Message::new(role, content)).collect();
    let mut other = Vec::new();
    for ((name, template), wanted) in templates.iter().zip(wanted.as_array().unwrap()) {
        let rendered = Template::Jinja(template.clone()).render(&turns, ("<s>", "</s>"), Some(clock));
        let same = match wanted {
            Value::String(wanted) => rendered.as_ref() == Ok(wanted),
            // Some of llama.cpp's demand tools, and Python refuses to go through none.
            _ => rendered.is_err() || name.ends_with("tool_use.jinja"),
        };
        if !same {
            other.push(format!("{name}\n  {wanted}\n  {rendered:?}"));
        }
    }
    assert!(other.is_empty(), "{}", other.join("\n"));
}
