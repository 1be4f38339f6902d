//! The report page in a real Chromium, driven through WebDriver as a reader would: sorted, filtered, a histogram
//! opened, on a phone, in the dark. Needs `chromedriver` and `chromium`; without them the tests say that they skip,
//! or fail where CKPT_REQUIRE_BROWSER=1.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ckpt_kit::binary::{Program, text};
use ckpt_kit::peers::skip;
use ckpt_kit::safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::program;
use crate::zoo::zoo;

/// A browser session; both programs end with it.
struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

/// No browser, because of `why`.
fn none(why: &str) -> Option<Browser> {
    skip("CKPT_REQUIRE_BROWSER", why);
    None
}

impl Browser {
    /// Opens a browser, or explains why the test is skipped.
    fn open() -> Option<Browser> {
        let profile = tempfile::tempdir().unwrap();
        let started =
            Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut driver = match started {
            Ok(driver) => driver,
            Err(error) => return none(&format!("chromedriver does not start: {error}")),
        };
        let port = BufReader::new(driver.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("chromedriver says its port");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.path().display()),
        ]
        .map(String::from);
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let base = format!("http://127.0.0.1:{port}/session");
        let answer: Value = match ureq::post(&base).send_json(capabilities) {
            Ok(mut answer) => answer.body_mut().read_json().unwrap(),
            Err(error) => {
                let _ = driver.kill();
                return none(&format!("chromedriver cannot start Chromium: {error}"));
            }
        };
        let session = format!("{base}/{}", answer["value"]["sessionId"].as_str().unwrap());
        Some(Browser { driver, session, _profile: profile })
    }

    fn post(&self, command: &str, body: Value) -> Value {
        let url = format!("{}/{command}", self.session);
        let answer: Value = ureq::post(url).send_json(body).unwrap().body_mut().read_json().unwrap();
        answer["value"].clone()
    }

    fn get(&self, command: &str) -> Value {
        let url = format!("{}/{command}", self.session);
        let answer: Value = ureq::get(url).call().unwrap().body_mut().read_json().unwrap();
        answer["value"].clone()
    }

    fn visit(&self, page: &Path) {
        self.post("url", json!({"url": format!("file://{}", page.display())}));
    }

    fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []}))
    }

    fn element(&self, css: &str) -> String {
        let found = self.post("element", json!({"using": "css selector", "value": css}));
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_string()
    }

    fn click(&self, css: &str) {
        self.post(&format!("element/{}/click", self.element(css)), json!({}));
    }

    fn type_into(&self, css: &str, text: &str) {
        self.post(&format!("element/{}/value", self.element(css)), json!({"text": text}));
    }

    fn media(&self, features: Value) {
        let body = json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}});
        self.post("goog/cdp/execute", body);
    }

    fn size(&self, width: u32, height: u32) {
        let params = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        let body = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": params});
        self.post("goog/cdp/execute", body);
    }

    /// What the page complained about: errors, and everything that its policy blocked.
    fn complaints(&self) -> Vec<Value> {
        self.post("se/log", json!({"type": "browser"})).as_array().cloned().unwrap_or_default()
    }

    /// Names of the visible rows of the table of tensors.
    fn names(&self) -> Vec<String> {
        let rows = self.run(
            "return [...document.querySelectorAll('.tensors tbody tr[data-layer]')].filter(r => !r.hidden).map(r => r.cells[0].textContent)",
        );
        rows.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_string()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The page of a report on `paths`.
fn report(program: &Program, paths: &[&str]) -> PathBuf {
    let page = program.at("report.html");
    program.run(&[&["report"], paths, &["-o", text(&page)]].concat()).exits(0);
    page
}

#[test]
fn a_reader_sorts_filters_and_opens_a_histogram() {
    let Some(browser) = Browser::open() else { return };
    let program = program();
    browser.size(1200, 900);
    browser.visit(&report(&program, &["tests/fixtures/collapse-run"]));
    assert_eq!(browser.run("return document.querySelector('h2').textContent.trim()"), "◐ Collapsing");

    assert_eq!(browser.names().len(), 24);
    browser.type_into(".filter", "gate_proj");
    assert_eq!(browser.names(), ["layers.0.mlp.gate_proj.weight", "layers.1.mlp.gate_proj.weight"]);
    assert_eq!(browser.run("return document.querySelector('.shown').textContent"), "2 of 24 tensors");
    browser.run(
        "const f = document.querySelector('.filter'); f.value = ''; f.dispatchEvent(new Event('input'))",
    );
    browser.run(
        "const v = document.querySelector('.verdict'); v.value = 'below'; v.dispatchEvent(new Event('change'))",
    );
    assert_eq!(browser.names().len(), 6);

    let std_last = ".tensors thead th:nth-child(5)";
    browser.click(&format!("{std_last} button"));
    let ascending = browser.names();
    assert_eq!(ascending[0], "layers.1.mlp.gate_proj.weight");
    assert_eq!(
        browser.get(&format!("element/{}/attribute/aria-sort", browser.element(std_last))),
        "ascending"
    );
    browser.click(&format!("{std_last} button"));
    assert_eq!(browser.names(), ascending.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(browser.names()[0], "layers.0.mlp.down_proj.weight");

    browser.click(".tensors tbody tr:not([hidden]) button.open");
    let bars = browser.run("return document.querySelectorAll('.detail rect').length");
    assert!(bars.as_u64().unwrap() > 5, "{bars}");
    assert_eq!(
        browser.run("return document.querySelector('.detail label + span').textContent"),
        " step 4000"
    );
    browser.run(
        "const s = document.querySelector('.detail input'); s.value = 0; s.dispatchEvent(new Event('input'))",
    );
    assert_eq!(browser.run("return document.querySelector('.detail label + span').textContent"), " step 0");
    let std = browser.run("return document.querySelectorAll('.detail dd')[1].textContent");
    assert_eq!(std, "0.0513", "std of layers.0.mlp.down_proj.weight at step 0");
    browser.click("button.open[aria-expanded=true]");
    assert_eq!(browser.run("return document.querySelectorAll('.detail').length"), 0);

    // By keyboard alone: the first heading's button takes focus and acts on Enter.
    browser.run("document.querySelector('.tensors thead button').focus()");
    let focused = browser.get("element/active");
    let focused = focused.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_string();
    browser.post(&format!("element/{focused}/value"), json!({"text": "\u{e007}"}));
    assert_eq!(browser.names()[0], "layers.0.mlp.down_proj.weight");
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn the_page_fits_a_phone_and_the_dark() {
    let Some(browser) = Browser::open() else { return };
    let program = program();
    let runs = ["tests/fixtures/collapse-run", "tests/fixtures/healthy-run"];
    browser.size(360, 740);
    browser.visit(&report(&program, &runs));
    let overflow =
        browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(overflow, 0, "the page itself must not scroll sideways");
    let paper = "return getComputedStyle(document.body).backgroundColor";
    browser.media(json!([{"name": "prefers-color-scheme", "value": "light"}]));
    let light = browser.run(paper);
    browser.media(json!([{"name": "prefers-color-scheme", "value": "dark"}]));
    assert_ne!(browser.run(paper), light);
    // Text that says a verdict has at least the contrast that WCAG asks of small text, in both schemes.
    let contrast = r#"
        const parse = c => c.match(/[\d.]+/g).slice(0, 3).map(v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        const light = c => { const [r, g, b] = parse(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        return Math.min(...[...document.querySelectorAll('.badge, .heat td, p, th, td')].map(e => {
            let at = e; while (at && getComputedStyle(at).backgroundColor === 'rgba(0, 0, 0, 0)') at = at.parentElement;
            const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(at || document.body).backgroundColor)];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        }))"#;
    for scheme in ["light", "dark"] {
        browser.media(json!([{"name": "prefers-color-scheme", "value": scheme}]));
        let least = browser.run(contrast).as_f64().unwrap();
        assert!(least >= 4.5, "{scheme}: contrast {least}");
    }
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn hostile_names_stay_text() {
    let Some(browser) = Browser::open() else { return };
    let program = program();
    let markup = r#"</script><img src=x onerror="document.title='owned'"><svg onload=alert(1)>"#;
    let name = format!("{markup}\u{202e}\u{1b}\n\u{200b}");
    let bytes = SafeTensors::new()
        .metadata(json!({"loss": "<b>0</b>", "step": "3"}))
        .f32s(&name, &[2, 2], &[0.0; 4])
        .bytes();
    let file = program.file("<i>\u{202e}model.safetensors", bytes);
    browser.visit(&report(&program, &[text(&file)]));
    assert_eq!(browser.run("return document.title"), "Checkpoint report");
    assert_eq!(browser.run("return document.querySelectorAll('img, i, b, svg[onload]').length"), 0);
    assert_eq!(browser.names(), [format!("{markup}\\u{{202e}}\\u{{1b}}\\u{{a}}\\u{{200b}}")]);
    // Nothing invisible and nothing that turns text around is anywhere, titles included.
    let hidden = "return document.documentElement.outerHTML.match(/[\\u0000-\\u0009\\u000b-\\u001f\\u007f-\\u009f\\u200b-\\u200f\\u202a-\\u202e]/g)";
    assert_eq!(browser.run(hidden), Value::Null);
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn the_cause_of_death_is_seen_at_a_glance() {
    let Some(browser) = Browser::open() else { return };
    let program = program();
    browser.size(1200, 1000);
    browser.visit(&report(&program, &["tests/fixtures/collapse-run"]));
    let bottom = |css: &str| {
        let script = format!("return document.querySelector('{css}').getBoundingClientRect().bottom");
        browser.run(&script).as_f64().unwrap()
    };
    // Without scrolling: the sentence, the plot, and what to do.
    for seen in [".cause .said", ".cause svg.small", ".cause ol"] {
        assert!(bottom(seen) < 1000.0, "{seen} ends at {}", bottom(seen));
    }
    assert_eq!(browser.run("return document.querySelector('.cause h4').textContent"), "Weight decay");
    assert_eq!(browser.run("return document.querySelectorAll('.cause svg .measured').length"), 9);
    // The predicted line runs through the measured dots, within two pixels of the drawing.
    let off = browser.run(
        r#"const svg = document.querySelector('.cause svg.small');
        const dots = [...svg.querySelectorAll('circle.measured')].map(c => [+c.getAttribute('cx'), +c.getAttribute('cy')]);
        const line = svg.querySelector('polyline.predicted').getAttribute('points').trim().split(/\s+/).map(p => p.split(',').map(Number));
        return Math.max(...line.map(([x, y]) => Math.min(...dots.map(([cx, cy]) => Math.hypot(cx - x, cy - y)))))"#,
    );
    assert!(off.as_f64().unwrap() <= 2.0, "{off}");
    assert_eq!(browser.run("return document.querySelector('.cause details').open"), false);
    browser.click(".cause summary");
    let rows = "return document.querySelectorAll('.cause details table:last-of-type tbody tr').length";
    assert!(browser.run(rows).as_u64().unwrap() >= 6);
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

/// The rows of the table of runs, names alone.
fn overview(browser: &Browser) -> Vec<String> {
    let rows = browser.run(
        "return [...document.querySelectorAll('.overview > table > tbody > tr[data-run]')].map(r => r.cells[0].textContent.split('/').pop())",
    );
    rows.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_string()).collect()
}

#[test]
fn a_zoo_is_one_table_in_which_the_worst_come_first() {
    let Some(browser) = Browser::open() else { return };
    let program = program();
    browser.size(1200, 900);
    browser.visit(&report(&program, &[text(&zoo(&program, 130))]));
    let said = |css: &str| {
        let script = format!("return document.querySelector('{css}').textContent.trim()");
        browser.run(&script).as_str().unwrap().to_string()
    };
    assert_eq!(browser.run("return document.documentElement.dataset.ready"), "");
    assert_eq!(said("header .muted"), "130 models");
    assert_eq!(said(".counts"), "✕ dead 2● healthy 128");
    let first = overview(&browser);
    assert_eq!(first.len(), 100);
    assert_eq!(first[..3], ["model-049.safetensors", "model-099.safetensors", "model-000.safetensors"]);
    assert_eq!(
        browser.run("return document.querySelectorAll('tr').length"),
        101,
        "only what is looked at is drawn"
    );
    assert_eq!(said(".overview > .pages .range"), "1 to 100 of 130");
    browser.click(".overview > .pages .next");
    assert_eq!(
        (overview(&browser).len(), said(".overview > .pages .range")),
        (30, "101 to 130 of 130".into())
    );
    assert_eq!(browser.run("return document.querySelector('.overview .next').disabled"), true);

    // Counts filter, and say that they do.
    browser.click(".counts li[data-verdict=dead] button");
    assert_eq!(overview(&browser), first[..2]);
    assert_eq!(
        browser.run("return document.querySelector('.counts [data-verdict=dead] button').ariaPressed"),
        "true"
    );
    assert_eq!(said(".overview .shown"), "2 of 130 rows");
    browser.click(".counts li[data-verdict=dead] button");
    browser.type_into(".overview .filter", "MODEL-04");
    assert_eq!(overview(&browser).len(), 10);
    assert_eq!(overview(&browser)[0], "model-049.safetensors");

    // A row is opened: what it is, its tensors, and the measurements of one, made from data of the page.
    browser.click(".overview button.open");
    assert_eq!(said(".opened .verdict-title"), "Dead");
    let opened = said(".opened");
    for part in ["overwritten", "every value is 0", "model-049.safetensors", "2 of 2 tensors"] {
        assert!(opened.to_lowercase().contains(part), "{part}: {opened}");
    }
    assert_eq!(browser.names(), ["net0.head.weight", "body.weight"]);
    browser.click(".opened .tensors tbody tr:last-child button.open");
    assert!(
        browser.run("return document.querySelectorAll('.opened .detail rect').length").as_u64().unwrap() > 3
    );
    let std = browser.run("return document.querySelectorAll('.opened .detail dd')[1].textContent");
    assert!((0.2..0.3).contains(&std.as_str().unwrap().parse::<f64>().unwrap()), "{std}");
    // It stays open while others come and go, and closes.
    browser.type_into(".overview .filter", "9");
    assert_eq!(overview(&browser), ["model-049.safetensors"]);
    assert_eq!(said(".opened .verdict-title"), "Dead");
    browser.click(".overview button.open[aria-expanded=true]");
    assert_eq!(browser.run("return document.querySelectorAll('.opened').length"), 0);

    // Sorting, by a real button in a heading that says so.
    browser.run("const f = document.querySelector('.overview .filter'); f.value = ''; f.dispatchEvent(new Event('input'))");
    assert_eq!(browser.run("return document.querySelector('[aria-sort]').textContent"), "verdict");
    browser.click(".overview thead th:nth-child(1) button");
    assert_eq!(overview(&browser)[0], "model-000.safetensors");
    assert_eq!(browser.run("return document.querySelector('[aria-sort=ascending]').textContent"), "name");
    browser.click(".overview thead th:nth-child(7) button");
    browser.click(".overview thead th:nth-child(7) button");
    assert_eq!(overview(&browser)[0], "model-129.safetensors", "the largest, and of those the last");
    assert_eq!(browser.complaints(), Vec::<Value>::new());

    // On a phone, and in the dark.
    browser.size(360, 740);
    browser.click(".overview button.open");
    for scheme in ["light", "dark"] {
        browser.media(json!([{"name": "prefers-color-scheme", "value": scheme}]));
        let overflow =
            browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(overflow, 0, "{scheme}: the page itself must not scroll sideways");
    }
}

#[test]
fn runs_beside_models_have_sections_or_unfold() {
    let Some(browser) = Browser::open() else { return };
    let program = program();
    let zoo = zoo(&program, 5);
    let fixtures = ["tests/fixtures/collapse-run", "tests/fixtures/healthy-run"];
    browser.size(1200, 900);
    browser.visit(&report(&program, &[&fixtures[..], &[text(&zoo)]].concat()));
    assert_eq!(
        browser.run("return document.querySelector('header .muted').textContent"),
        "2 runs and 5 models, 17 checkpoints"
    );
    assert_eq!(browser.run("return document.querySelectorAll('main > .run svg.chart').length > 2"), true);
    assert_eq!(browser.run("return document.querySelector('.overview th a').hash"), "#run0");
    assert_eq!(browser.names().len(), 48);

    // More runs than are shown one below the other: a row unfolds its section, with its charts, and a link opens it.
    let many = program.at("many");
    for run in 0..7 {
        let folder = many.join(format!("run{run}"));
        std::fs::create_dir_all(&folder).unwrap();
        for step in ["step-00000.pt", "step-02000.pt"] {
            std::fs::copy(Path::new(fixtures[1]).join(step), folder.join(step)).unwrap();
        }
    }
    let page = program.at("many.html");
    program.run(&["report", text(&many), "-o", text(&page)]).exits(0);
    browser.visit(&page);
    assert_eq!(browser.run("return document.querySelectorAll('.run').length"), 0);
    browser.click(".overview tr:nth-child(2) button.open");
    assert_eq!(browser.run("return document.querySelectorAll('.opened .run svg.chart').length"), 2);
    assert_eq!(browser.names().len(), 24);
    browser.run("location.hash = '#run4'");
    browser.run("return new Promise(done => setTimeout(done, 50))");
    assert_eq!(browser.run("return document.querySelectorAll('.opened').length"), 2);
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}
