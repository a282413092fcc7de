import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  type AllowedHosts,
  checkOutboundTarget,
  checkPushTarget,
  ELEVENLABS_HOSTS,
  isElevenLabsConversationUrl,
  mayHoldElevenLabsKey,
  type PushTargetRefusal,
  parseAllowedHosts,
} from "../../lib/push/push-target.ts";

/** Stands in every path, query and userinfo below; no detail may hold it. */
const CANARY = "CANARYsecret";

function hostsOf(text: string): AllowedHosts {
  const parsed = parseAllowedHosts(text);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.hosts;
}

const elevenLabs = hostsOf(ELEVENLABS_HOSTS.join(","));
/** A list with one entry of every form. */
const mixed = hostsOf(
  "api.elevenlabs.io, *.elevenlabs.io, agent.example.com:8443, *.push.example.com:9443, 8.8.8.8, " +
    "[2606:4700:4700::1111], xn--bcher-kva.example",
);
const local = hostsOf("localhost, 127.0.0.1, [::1], api.elevenlabs.io");
const localAtPort = hostsOf("localhost:9000");

const refused: [url: string, reason: PushTargetRefusal, allowed?: AllowedHosts][] = [
  // Not a wss URL
  ["", "not_absolute"],
  ["api.elevenlabs.io/v1", "not_absolute"],
  ["/v1/convai/conversation", "not_absolute"],
  ["//api.elevenlabs.io/v1", "not_absolute"],
  ["：//api.elevenlabs.io", "not_absolute"],
  ["api.elevenlabs.io:443/v1", "scheme_not_allowed"],
  [`https://api.elevenlabs.io/?t=${CANARY}`, "scheme_not_allowed"],
  ["http://api.elevenlabs.io/", "scheme_not_allowed"],
  ["ws://api.elevenlabs.io/", "scheme_not_allowed"],
  ["WS://api.elevenlabs.io/", "scheme_not_allowed"],
  ["wsss://api.elevenlabs.io/", "scheme_not_allowed"],
  [`javascript:${CANARY}//api.elevenlabs.io`, "scheme_not_allowed"],
  [`data:text/plain,${CANARY}`, "scheme_not_allowed"],
  ["file:///etc/passwd", "scheme_not_allowed"],
  ["blob:wss://api.elevenlabs.io/", "scheme_not_allowed"],
  ["ws://localhost:9000/", "scheme_not_allowed"],
  ["wss:api.elevenlabs.io", "no_host"],
  ["wss:/api.elevenlabs.io", "no_host"],
  ["wss:///api.elevenlabs.io", "no_host"],
  ["wss:////api.elevenlabs.io", "no_host"],
  ["wss://", "no_host"],
  ["wss://?host=api.elevenlabs.io", "no_host"],
  // Characters that the parser repairs
  [" wss://api.elevenlabs.io/", "forbidden_character"],
  ["wss://api.elevenlabs.io/ ", "forbidden_character"],
  ["wss://api.elevenlabs.io/\n", "forbidden_character"],
  ["wss://api.eleven\tlabs.io/", "forbidden_character"],
  ["w\nss://api.elevenlabs.io/", "forbidden_character"],
  ["wss://api.elevenlabs.io/\r\nHost: evil.com", "forbidden_character"],
  ["wss://api.elevenlabs.io/\u0000", "forbidden_character"],
  ["wss://api.elevenlabs.io/\u007f", "forbidden_character"],
  ["wss://evil.com\\.api.elevenlabs.io/", "forbidden_character"],
  ["wss:\\\\api.elevenlabs.io/", "forbidden_character"],
  ["wss://evil.com\\@api.elevenlabs.io/", "forbidden_character"],
  // Userinfo and fragment, empty ones too
  [`wss://${CANARY}@api.elevenlabs.io/`, "userinfo"],
  [`wss://user:${CANARY}@api.elevenlabs.io/`, "userinfo"],
  ["wss://@api.elevenlabs.io/", "userinfo"],
  ["wss://user:@api.elevenlabs.io/", "userinfo"],
  ["wss://:@api.elevenlabs.io/", "userinfo"],
  ["wss://api.elevenlabs.io@evil.com/", "userinfo"],
  ["wss://api.elevenlabs.io:443@evil.com/", "userinfo"],
  [`wss://api.elevenlabs.io/#${CANARY}`, "fragment"],
  ["wss://api.elevenlabs.io/#", "fragment"],
  ["wss://api.elevenlabs.io/?a=b#", "fragment"],
  ["wss://evil.com#@api.elevenlabs.io/", "fragment"],
  // Another host that looks like a listed one
  ["wss://evil.com/", "host_not_allowed"],
  ["wss://api.elevenlabs.io.evil.com/", "host_not_allowed"],
  ["wss://evilapi.elevenlabs.io.evil.com/", "host_not_allowed", mixed],
  ["wss://evilapi.elevenlabs.io/", "host_not_allowed"],
  ["wss://xelevenlabs.io/", "host_not_allowed", mixed],
  ["wss://evil-elevenlabs.io/", "host_not_allowed", mixed],
  ["wss://elevenlabs.io/", "host_not_allowed", mixed],
  ["wss://push.example.com:9443/", "host_not_allowed", mixed],
  ["wss://api.elevenlabs.i0/", "host_not_allowed"],
  ["wss://api-elevenlabs.io/", "host_not_allowed"],
  [`wss://evil.com/api.elevenlabs.io?t=${CANARY}`, "host_not_allowed"],
  ["wss://evil.com?@api.elevenlabs.io/", "host_not_allowed"],
  ["wss://evil.com/@api.elevenlabs.io/", "host_not_allowed"],
  ["wss://localhost:9000/", "host_not_allowed"],
  ["wss://app.localhost/", "host_not_allowed", local],
  ["wss://localhost.evil.com/", "host_not_allowed", local],
  ["wss://metadata.google.internal/", "host_not_allowed"],
  ["wss://api.elevenlabs.io/", "host_not_allowed", []],
  // Malformed hosts
  ["wss://api.elevenlabs.io./", "trailing_dot"],
  ["wss://api.elevenlabs.io.:443/", "trailing_dot"],
  ["wss://127.0.0.1./", "trailing_dot", local],
  ["wss://./", "trailing_dot"],
  ["wss://api..elevenlabs.io/", "malformed_host", mixed],
  ["wss://.elevenlabs.io/", "malformed_host", mixed],
  ["wss://*.elevenlabs.io/", "malformed_host", mixed],
  ["wss://-a.elevenlabs.io/", "malformed_host", mixed],
  ["wss://a,b.elevenlabs.io/", "malformed_host", mixed],
  ["wss://a;b.elevenlabs.io/", "malformed_host", mixed],
  ["wss://evil.com&.elevenlabs.io/", "malformed_host", mixed],
  [`wss://${"a".repeat(64)}.elevenlabs.io/`, "malformed_host", mixed],
  [`wss://${"a.".repeat(130)}elevenlabs.io/`, "malformed_host", mixed],
  ["wss://[api.elevenlabs.io]/", "malformed_host"],
  ["wss://[::1/", "malformed_host", local],
  ["wss://::1/", "malformed_host", local],
  ["wss://[::1]evil.com/", "malformed_host", local],
  ["wss://256.1.1.1/", "malformed_host"],
  ["wss://8.8.8.8.8/", "malformed_host", mixed],
  ["wss://a.8.8.8.8/", "malformed_host", mixed],
  // Percent-encoding, other scripts, punycode
  ["wss://api%2eelevenlabs.io/", "percent_encoded_host"],
  ["wss://api.elevenlabs.io%2f.evil.com/", "percent_encoded_host"],
  ["wss://%61pi.elevenlabs.io/", "percent_encoded_host"],
  ["wss://api.elevenlabs.io%00.evil.com/", "percent_encoded_host"],
  ["wss://[fe80::1%25eth0]/", "percent_encoded_host"],
  ["wss://bücher.example/", "non_ascii_host", mixed],
  ["wss://аpi.elevenlabs.io/", "non_ascii_host", mixed],
  ["wss://ａｐｉ.elevenlabs.io/", "non_ascii_host"],
  ["wss://api．elevenlabs．io/", "non_ascii_host"],
  ["wss://api。elevenlabs。io/", "non_ascii_host"],
  ["wss://api.elevenlabs.io／.evil.com/", "non_ascii_host"],
  ["wss://evil.com＠api.elevenlabs.io/", "non_ascii_host"],
  ["wss://api.eleven\u00adlabs.io/", "non_ascii_host"],
  ["wss://api.eleven\u200blabs.io/", "non_ascii_host"],
  ["wss://①②⑦.0.0.1/", "non_ascii_host", local],
  ["wss://xn--pi-7kc.elevenlabs.io/", "punycode_host", mixed],
  ["wss://a.xn--bcher-kva.elevenlabs.io/", "punycode_host", mixed],
  ["wss://xn--mnchen-3ya.example/", "punycode_host", mixed],
  // Ports
  ["wss://api.elevenlabs.io:8443/", "port_not_allowed"],
  ["wss://api.elevenlabs.io:80/", "port_not_allowed"],
  ["wss://api.elevenlabs.io:6379/", "port_not_allowed"],
  ["wss://agent.example.com/", "port_not_allowed", mixed],
  ["wss://agent.example.com:443/", "port_not_allowed", mixed],
  ["wss://a.push.example.com/", "port_not_allowed", mixed],
  ["wss://8.8.8.8:53/", "port_not_allowed", mixed],
  ["ws://localhost:9001/", "port_not_allowed", localAtPort],
  ["ws://localhost/", "port_not_allowed", localAtPort],
  ["wss://api.elevenlabs.io:/", "malformed_port"],
  ["wss://api.elevenlabs.io:0/", "malformed_port"],
  ["wss://api.elevenlabs.io:0443/", "malformed_port"],
  ["wss://api.elevenlabs.io:65536/", "malformed_port"],
  [`wss://api.elevenlabs.io:${CANARY}/`, "malformed_port"],
  ["wss://api.elevenlabs.io:443:443/", "malformed_port"],
  // IPv4, in every notation the parser reads
  ["wss://127.0.0.1/", "loopback_address"],
  ["wss://127.0.0.2/", "loopback_address", local],
  ["wss://127.1/", "loopback_address"],
  ["wss://2130706433/", "loopback_address"],
  ["wss://0x7f000001/", "loopback_address"],
  ["wss://0x7f.1/", "loopback_address"],
  ["wss://0177.0.0.1/", "loopback_address"],
  ["wss://017700000001/", "loopback_address"],
  ["wss://0X7F.0.0x0.01/", "loopback_address"],
  ["wss://127.0.0.1:6379/", "loopback_address"],
  ["wss://0.0.0.0/", "unspecified_address"],
  ["wss://0/", "unspecified_address"],
  ["wss://10.0.0.5/", "private_address"],
  ["wss://172.16.0.1/", "private_address"],
  ["wss://172.31.255.255/", "private_address"],
  ["wss://192.168.1.1/", "private_address"],
  ["wss://3232235777/", "private_address"],
  ["wss://100.64.0.1/", "shared_address"],
  ["wss://100.127.255.255/", "shared_address"],
  ["wss://169.254.1.1/", "link_local_address"],
  ["wss://169.254.169.254/latest/meta-data", "metadata_address"],
  ["wss://2852039166/", "metadata_address"],
  ["wss://0xa9fea9fe/", "metadata_address"],
  ["wss://0251.0376.0251.0376/", "metadata_address"],
  ["wss://100.100.100.200/", "metadata_address"],
  ["wss://168.63.129.16/", "metadata_address"],
  ["wss://192.0.2.1/", "reserved_address"],
  ["wss://198.18.0.1/", "reserved_address"],
  ["wss://203.0.113.7/", "reserved_address"],
  ["wss://224.0.0.1/", "multicast_address"],
  ["wss://240.0.0.1/", "reserved_address"],
  ["wss://255.255.255.255/", "reserved_address"],
  ["wss://1.1.1.1/", "host_not_allowed", mixed],
  ["wss://0x08080808/", "address_notation", mixed],
  ["wss://8.8.2056/", "address_notation", mixed],
  ["ws://127.1/", "address_notation", local],
  ["ws://2130706433/", "address_notation", local],
  // IPv6
  ["wss://[::]/", "unspecified_address"],
  ["wss://[::1]/", "loopback_address"],
  ["wss://[0:0:0:0:0:0:0:1]/", "loopback_address"],
  ["ws://[0:0:0:0:0:0:0:1]/", "address_notation", local],
  ["wss://[::ffff:127.0.0.1]/", "embedded_ipv4_address"],
  ["wss://[::ffff:127.0.0.1]/", "embedded_ipv4_address", local],
  ["wss://[::ffff:a9fe:a9fe]/", "embedded_ipv4_address"],
  ["wss://[::ffff:8.8.8.8]/", "embedded_ipv4_address", mixed],
  ["wss://[::127.0.0.1]/", "embedded_ipv4_address"],
  ["wss://[::ffff:0:127.0.0.1]/", "embedded_ipv4_address"],
  ["wss://[64:ff9b::169.254.169.254]/", "embedded_ipv4_address"],
  ["wss://[64:ff9b:1::a00:1]/", "embedded_ipv4_address"],
  ["wss://[2002:7f00:1::]/", "embedded_ipv4_address"],
  ["wss://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "embedded_ipv4_address"],
  ["wss://[2001:db8::1]/", "reserved_address"],
  ["wss://[2001:20::1]/", "reserved_address"],
  ["wss://[3fff::1]/", "reserved_address"],
  ["wss://[100::1]/", "reserved_address"],
  ["wss://[4000::1]/", "reserved_address"],
  ["wss://[5f00::1]/", "reserved_address"],
  ["wss://[fc00::1]/", "private_address"],
  ["wss://[fd12:3456:789a::1]/", "private_address"],
  ["wss://[fec0::1]/", "private_address"],
  ["wss://[fd00:ec2::254]/", "metadata_address"],
  ["wss://[fe80::1]/", "link_local_address"],
  ["wss://[febf::1]/", "link_local_address"],
  ["wss://[ff02::1]/", "multicast_address"],
  ["wss://[2606:4700:4700::1001]/", "host_not_allowed", mixed],
  ["wss://[2606:4700:4700:0::1111]/", "address_notation", mixed],
  // Length
  [`wss://api.elevenlabs.io/?${"a".repeat(8192)}`, "too_long"],
  ["wss://".repeat(100_000), "too_long"],
];

const accepted: [url: string, allowed?: AllowedHosts][] = [
  [`wss://api.elevenlabs.io/v1/convai/conversation?agent_id=agent_1&conversation_signature=cvtkn_${CANARY}`],
  ["wss://api.us.elevenlabs.io/v1/convai/conversation?agent_id=a&source=js_sdk&version=1.25.0"],
  ["wss://api.eu.residency.elevenlabs.io/v1/convai/conversation?agent_id=a"],
  ["wss://api.in.residency.elevenlabs.io/v1/convai/conversation?agent_id=a"],
  ["wss://api.sg.residency.elevenlabs.io/v1/convai/conversation?agent_id=a"],
  ["wss://api.elevenlabs.io"],
  ["wss://api.elevenlabs.io?agent_id=a"],
  ["wss://api.elevenlabs.io:443/v1"],
  ["WSS://API.ElevenLabs.IO/v1"],
  ["wss://api.elevenlabs.io/a@b/%2e%2e/%23?u=https://evil.com/&e=a%0d%0a"],
  ["wss://api.elevenlabs.io/ü?q=日本"],
  [`wss://api.elevenlabs.io/?${"a".repeat(8192 - "wss://api.elevenlabs.io/?".length)}`],
  ["wss://deep.er.elevenlabs.io/", mixed],
  ["wss://a_b.elevenlabs.io/", mixed],
  ["wss://agent.example.com:8443/ws", mixed],
  ["wss://a.push.example.com:9443/", mixed],
  ["wss://8.8.8.8/", mixed],
  ["wss://[2606:4700:4700::1111]/", mixed],
  ["wss://[2606:4700:4700::1111]:443/", mixed],
  ["wss://xn--bcher-kva.example/", mixed],
  ["ws://localhost:9000/agent?token=t", local],
  ["ws://localhost/", local],
  ["wss://localhost:9443/", local],
  ["ws://LOCALHOST:9000/", local],
  ["ws://127.0.0.1:9000/", local],
  ["ws://[::1]:9000/", local],
  ["ws://localhost:9000/", localAtPort],
  ["wss://localhost:9000/", localAtPort],
];

describe("a push target", () => {
  test.each(refused)("is refused: %s (%s)", (url, reason, allowed = elevenLabs) => {
    const target = checkPushTarget(url, allowed);

    expect(target).toMatchObject({ ok: false, reason });
    if (!target.ok) expect(target.detail).not.toContain(CANARY);
  });

  test.each(accepted)("is accepted: %s", (url, allowed = elevenLabs) => {
    const target = checkPushTarget(url, allowed);

    expect(target).toMatchObject({ ok: true });
    if (target.ok) expect(target.url.href).toBe(new URL(url).href);
  });

  test("is never a private address, even where a list built by hand holds it", () => {
    const byHand: AllowedHosts = [{ kind: "exact", host: "10.0.0.5", port: undefined }];

    expect(checkPushTarget("wss://10.0.0.5/", byHand)).toMatchObject({ reason: "private_address" });
  });

  test("is accepted at each of the ports that are listed", () => {
    const allowed = hostsOf("a.example:8443,a.example,a.example:9443");

    expect(checkPushTarget("wss://a.example/", allowed).ok).toBe(true);
    expect(checkPushTarget("wss://a.example:9443/", allowed).ok).toBe(true);
    expect(checkPushTarget("wss://a.example:9444/", allowed).ok).toBe(false);
  });

  test("that no string makes throw", () => {
    const anyText = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.string({ unit: "grapheme" }).map((rest) => `wss://${rest}`),
      fc.string({ unit: fc.constantFrom(..."ws:/[]@.%#?0x17f-é。\\ ".split("")) }).map((s) => `wss://${s}`),
    );
    fc.assert(
      fc.property(anyText, (url) => {
        for (const allowed of [elevenLabs, mixed, local]) checkPushTarget(url, allowed);
      }),
      { numRuns: 2_000 },
    );
  });

  test("is never a host outside the list, whatever the parser makes of the text", () => {
    const piece = fc.oneof(
      fc.constantFrom(
        ..."api.elevenlabs.io evil.com localhost 127.0.0.1 [::1] @ / \\ # ? : . %2e 。 \t".split(" "),
      ),
      fc.webUrl(),
      fc.domain(),
      fc.ipV4Extended(),
      fc.ipV6(),
      fc.string(),
    );
    const url = fc.tuple(fc.constantFrom("wss://", "ws://", "wss:", ""), fc.array(piece, { maxLength: 5 }));
    fc.assert(
      fc.property(url, ([scheme, pieces]) => {
        const target = checkPushTarget(scheme + pieces.join(""), elevenLabs);
        if (!target.ok) return;
        expect(ELEVENLABS_HOSTS).toContain(target.url.hostname);
        expect(target.url).toMatchObject({
          protocol: "wss:",
          port: "",
          username: "",
          password: "",
          hash: "",
        });
      }),
      { numRuns: 5_000 },
    );
  });

  test("is dialled at the host that was checked, whatever stands behind it", () => {
    const hosts = fc.constantFrom(
      "api.elevenlabs.io",
      "API.elevenlabs.io",
      "evil.example",
      "127.0.0.1:80",
      "",
    );
    const rest = fc.string({ unit: fc.constantFrom(..."/?@:.#%\\ &=evil.example".split("")), maxLength: 12 });
    fc.assert(
      fc.property(hosts, rest, (host, behind) => {
        const url = `wss://${host}${behind}`;
        // The second time it is remembered.
        for (const target of [checkPushTarget(url, elevenLabs), checkPushTarget(url, elevenLabs)]) {
          if (!target.ok) continue;
          expect(target.url.href).toBe(new URL(url).href);
          const { hostname, host, pathname } = new URL(url);
          expect([target.hostname, target.host, target.pathname]).toEqual([hostname, host, pathname]);
          expect(host).toBe("api.elevenlabs.io");
        }
      }),
      { numRuns: 5_000 },
    );
  });

  test("is never an address of an IPv4 range that is not public", () => {
    const octet = fc.integer({ min: 0, max: 255 });
    const special = fc.oneof(
      fc.tuple(fc.constantFrom(0, 10, 127), octet, octet, octet),
      fc.tuple(fc.integer({ min: 224, max: 255 }), octet, octet, octet),
      fc.tuple(fc.constant(192), fc.constant(168), octet, octet),
      fc.tuple(fc.constant(172), fc.integer({ min: 16, max: 31 }), octet, octet),
      fc.tuple(fc.constant(100), fc.integer({ min: 64, max: 127 }), octet, octet),
      fc.tuple(fc.constant(169), fc.constant(254), octet, octet),
    );
    const notation = fc.constantFrom<(octets: number[]) => string>(
      (octets) => octets.join("."),
      (octets) => octets.map((value) => `0x${value.toString(16)}`).join("."),
      (octets) => octets.map((value) => `0${value.toString(8)}`).join("."),
      (octets) => String(octets.reduce((sum, value) => sum * 256 + value, 0)),
    );
    fc.assert(
      fc.property(special, notation, (octets, write) => {
        const host = octets.join(".");
        const allowed: AllowedHosts = [{ kind: "exact", host, port: undefined }];
        const target = checkPushTarget(`wss://${write([...octets])}/`, allowed);
        expect(target.ok && host !== "127.0.0.1").toBe(false);
      }),
    );
  });
});

describe("the list of allowed hosts", () => {
  test("holds hosts, ports and suffixes, in any case and spacing", () => {
    expect(
      parseAllowedHosts(" API.Example.com ,b.example:8443,*.C.example , *.d.example:9443,[0::1]:80,"),
    ).toEqual({
      ok: true,
      hosts: [
        { kind: "exact", host: "api.example.com", port: undefined },
        { kind: "exact", host: "b.example", port: "8443" },
        { kind: "below", host: "c.example", port: undefined },
        { kind: "below", host: "d.example", port: "9443" },
        { kind: "exact", host: "[::1]", port: "80" },
      ],
    });
  });

  test("may be empty and then allows nothing", () => {
    expect(parseAllowedHosts(" , ")).toEqual({ ok: true, hosts: [] });
  });

  test("tells every malformed entry by its position, counted from 1, and shows none", () => {
    const parsed = parseAllowedHosts(`ok.example,wss://${CANARY}.example,,*,other.example`);

    expect(parsed).toMatchObject({ ok: false, problems: [{ position: 2 }, { position: 4 }] });
    expect(JSON.stringify(parsed)).not.toContain(CANARY);
  });

  test.each([
    "*",
    "*.",
    "*.com",
    "*.localhost",
    "a.*.example",
    "**.example.com",
    "*.*.example.com",
    "*.0.0.1",
    "*.127.0.0.1",
    "*.[::1]",
    "*.xn--bcher-kva.example",
    "wss://a.example",
    "a.example/path",
    "user@a.example",
    "a.example:",
    "a.example:0",
    "a.example:65536",
    "a.example:443x",
    "a.example.",
    ".a.example",
    "a..example",
    "-a.example",
    "a b.example",
    "bücher.example",
    "a.example#x",
    "a%2eexample",
    "::1",
    "[::1",
    "[a.example]",
    "[::g]",
    "127.1",
    "0x08080808",
    "10.0.0.5",
    "169.254.169.254",
    "127.0.0.2",
    "0.0.0.0",
    "[fe80::1]",
    "[::ffff:8.8.8.8]",
    "[2002:808:808::]",
    "a".repeat(300),
  ])("does not take the entry %s", (entry) => {
    expect(parseAllowedHosts(entry)).toMatchObject({ ok: false, problems: [{ position: 1 }] });
  });

  test("is read from any string without throwing", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary" }), fc.string()), (text) => {
        parseAllowedHosts(text);
        parseAllowedHosts(`*.${text}`);
        parseAllowedHosts(`[${text}]`);
      }),
    );
  });
});

describe("a URL of ElevenLabs", () => {
  test.each([
    ...ELEVENLABS_HOSTS.map((host) => `wss://${host}/v1/convai/conversation?agent_id=a`),
    "wss://api.elevenlabs.io/",
    "wss://api.elevenlabs.io./v1",
    "wss://API.elevenlabs.io:443/v1",
    "wss://api.jp.residency.elevenlabs.io/v1",
    "wss://gateway.example/v1/convai/conversation?agent_id=a",
  ])("is known: %s", (url) => {
    expect(isElevenLabsConversationUrl(new URL(url), "https://gateway.example")).toBe(true);
  });

  test.each([
    "wss://agent.example.com/v1/convai/conversation",
    "wss://api.elevenlabs.io.evil.com/",
    "wss://evilelevenlabs.io/",
    "ws://localhost:9000/?host=api.elevenlabs.io",
    "wss://gateway.example/agent",
    "wss://gateway.example:8443/v1/convai/conversation",
  ])("is not %s", (url) => {
    expect(isElevenLabsConversationUrl(new URL(url), "https://gateway.example")).toBe(false);
  });
});

describe("a pattern over names that anybody may have", () => {
  test.each([
    ...[
      "*.co.uk",
      "*.com.br",
      "*.github.io",
      "*.workers.dev",
      "*.pages.dev",
      "*.vercel.app",
      "*.herokuapp.com",
    ],
    ...["*.ngrok.io", "*.cloudfront.net", "*.s3.amazonaws.com", "*.azurewebsites.net", "*.fly.dev:8443"],
    // Names are handed out at more than one depth below these, or resolve to whatever they say.
    ...["*.compute.amazonaws.com", "*.eu-west-1.elb.amazonaws.com", "*.amazonaws.com", "*.a.run.app"],
    ...["*.nip.io", "*.10.0.0.1.sslip.io", "*.co.jp", "*.gov.au", "*.uk"],
  ])("%s is refused", (entry) => {
    expect(parseAllowedHosts(entry)).toMatchObject({ ok: false, problems: [{ position: 1 }] });
  });

  test.each([
    "*.elevenlabs.io",
    "*.residency.elevenlabs.io",
    "*.example.com",
    "*.agent.corp.internal",
    "*.me.github.io",
  ])("%s is somebody's own, and is taken", (entry) => {
    expect(parseAllowedHosts(entry)).toMatchObject({ ok: true });
  });

  test.each(["me.github.io", "co.uk"])("%s, listed itself, is taken", (entry) => {
    expect(parseAllowedHosts(entry)).toMatchObject({ ok: true });
  });
});

describe("the ElevenLabs API key", () => {
  const API_URL = "https://api.elevenlabs.io";
  test.each([
    ...ELEVENLABS_HOSTS.map((host): [string, string, boolean] => [`wss://${host}/v1`, API_URL, true]),
    ["wss://agents.example/v1", "https://agents.example", true],
    ["ws://127.0.0.1:8080/v1", "http://127.0.0.1:8080", true],
    ["wss://evil.elevenlabs.io/v1", API_URL, false],
    ["wss://elevenlabs.io/v1", API_URL, false],
    ["wss://api.elevenlabs.io:8443/v1", API_URL, false],
    ["wss://api.elevenlabs.io.evil.example/v1", API_URL, false],
    ["wss://a.agents.example/v1", "https://agents.example", false],
    ["wss://agents.example:8443/v1", "https://agents.example", false],
  ])("may go to %s with the API at %s: %s", (url, apiUrl, may) => {
    expect(mayHoldElevenLabsKey(new URL(url), apiUrl)).toBe(may);
  });
});

describe("an outbound URL", () => {
  /** What a session URL is refused for whatever is listed; who wrote this one needs no list. */
  const byNature = refused.filter(
    ([url, reason]) => /^wss?:/i.test(url) && reason !== "host_not_allowed" && reason !== "port_not_allowed",
  );
  const asHttp = (url: string) => url.replace(/^ws/i, "http");

  test.each(byNature)("is refused as a session URL is: %s (%s)", (url, reason, allowed = elevenLabs) => {
    const target = checkOutboundTarget(asHttp(url), allowed);

    expect(target).toMatchObject({ ok: false, reason });
    if (!target.ok) expect(target.detail).not.toContain(CANARY);
  });

  test.each<[string, PushTargetRefusal, AllowedHosts?]>([
    ["wss://events.example/", "scheme_not_allowed"],
    ["http://events.example/", "scheme_not_allowed"],
    ["ftp://events.example/", "scheme_not_allowed"],
    ["http://localhost:9000/", "scheme_not_allowed"],
    ["https://localhost/", "private_name"],
    ["http://127.0.0.1:9000/", "loopback_address"],
    ["https://127.0.0.2/", "loopback_address", local],
    ["https://app.localhost/", "private_name", local],
    ["https://metadata.google.internal/", "private_name"],
    ["https://printer.local/", "private_name"],
    ["https://nas.home.arpa/", "private_name"],
    ["https://intranet/", "private_name"],
    ["https://xn--bcher-kva.example/", "punycode_host", mixed],
  ])("is refused: %s (%s)", (url, reason, allowed = elevenLabs) => {
    expect(checkOutboundTarget(url, allowed)).toMatchObject({ ok: false, reason });
  });

  test.each<[string, AllowedHosts?]>([
    ["https://events.example/hooks?to=a"],
    ["https://events.example:8443/"],
    ["https://8.8.8.8/"],
    ["https://[2606:4700:4700::1111]:8443/"],
    ["http://localhost:9000/", local],
    ["http://127.0.0.1:9000/", local],
    ["https://[::1]/", local],
    ["http://localhost:9001/", localAtPort],
  ])("is accepted: %s", (url, allowed = elevenLabs) => {
    expect(checkOutboundTarget(url, allowed)).toMatchObject({ ok: true });
  });

  test("is never an address that is not public, whatever the parser makes of the text", () => {
    const host = fc.oneof(
      fc.ipV4Extended(),
      fc.ipV6().map((address) => `[${address}]`),
      fc.domain(),
    );
    fc.assert(
      fc.property(host, fc.webPath(), (name, path) => {
        const target = checkOutboundTarget(`https://${name}${path}`, elevenLabs);
        if (!target.ok) return;
        expect(checkPushTarget(`wss://${name}`, [{ kind: "exact", host: name, port: undefined }]).ok).toBe(
          true,
        );
      }),
      { numRuns: 2_000 },
    );
  });
});
