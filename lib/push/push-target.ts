/**
 * Where a push may go. A browser names the address that the service will later dial with what it knows, so
 * the address is checked against an allow list, at registration and again before dialling. Everything here
 * is decided from the text alone: no name is resolved, so a listed name that points to a private address is
 * trusted as its operator is.
 *
 * The text is checked before and after the URL parser has read it. The parser repairs what it is given
 * (backslashes, tabs, fullwidth dots, `0x7f.1`), and each repair is a way to show one host to a reader and
 * another to the network; a URL that needed one is refused.
 */

import { lastOf } from "../last-of.ts";
import { isPublicSuffix } from "./public-suffixes.ts";

/** One entry of the allow list. `port` is decimal text, undefined where the entry names none. */
export type HostPattern = {
  /** `exact` is this host; `below` is every host under it, at a label boundary, and not the host itself. */
  readonly kind: "exact" | "below";
  /** Lower case, in the form the URL parser gives it; IPv6 in brackets. */
  readonly host: string;
  readonly port: string | undefined;
};

export type AllowedHosts = readonly HostPattern[];

/** What is wrong with one entry. `position` counts from 1, as a person counts the commas. */
export type HostEntryProblem = { position: number; message: string };

export type ParsedAllowedHosts =
  | { ok: true; hosts: AllowedHosts }
  | { ok: false; problems: readonly HostEntryProblem[] };

export type PushTargetRefusal =
  | "too_long"
  | "forbidden_character"
  | "not_absolute"
  | "scheme_not_allowed"
  | "fragment"
  | "no_host"
  | "userinfo"
  | "percent_encoded_host"
  | "non_ascii_host"
  | "malformed_host"
  | "malformed_port"
  | "trailing_dot"
  | AddressRange
  | "private_name"
  | "address_notation"
  | "punycode_host"
  | "host_not_allowed"
  | "port_not_allowed";

/** What of a URL says whose it is. */
type Place = Pick<URL, "hostname" | "host" | "pathname">;

/** `detail` is a sentence that holds at most the host. */
export type PushTarget = Target | { ok: false; reason: PushTargetRefusal; detail: string };

/**
 * The API hosts of ElevenLabs and its data residencies, as its packages and documentation name them
 * (https://elevenlabs.io/docs). Joined by commas it is the default of PUSH_ALLOWED_HOSTS.
 */
export const ELEVENLABS_HOSTS: readonly string[] = [
  "api.elevenlabs.io",
  "api.us.elevenlabs.io",
  "api.eu.residency.elevenlabs.io",
  "api.in.residency.elevenlabs.io",
  "api.sg.residency.elevenlabs.io",
];

/** Longer than any signed URL; keeps the checks below linear in something small. */
const MAX_URL_CHARACTERS = 8192;
/** RFC 1035 §2.3.4, without the root's dot. */
const MAX_HOST_CHARACTERS = 253;
/** Underscores are no hostname but stand in names that are dialled every day. */
const HOST_NAME = /^(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*$/;
const PORT = /^[1-9][0-9]{0,4}$/;
const PUNYCODE_LABEL = /(?:^|\.)xn--/;
/** Top-level domains that are set aside for private networks: RFC 6761, 6762 and 8375, ICANN 2024. */
const PRIVATE_NAME = /\.(?:localhost|local|internal|home\.arpa)$/;
/** The only hosts that may be reached by `ws:` or `http:`, and only when they are listed. */
export const LOOPBACK_HOSTS: ReadonlySet<string> = new Set(["localhost", "127.0.0.1", "[::1]"]);
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const FORBIDDEN_CHARACTER = /[\u0000-\u0020\u007f-\u009f\\]/;

/**
 * Reads PUSH_ALLOWED_HOSTS: entries separated by commas, each `host`, `host:port`, `*.suffix` or
 * `*.suffix:port`. Case and blanks around an entry do not matter; empty entries are skipped. An entry that
 * could never match, or that names an address no push may go to, is a problem rather than a silent nothing.
 * Problems name the position, never the entry. Never throws.
 */
export function parseAllowedHosts(text: string): ParsedAllowedHosts {
  const hosts: HostPattern[] = [];
  const problems: HostEntryProblem[] = [];
  for (const [index, entry] of text.split(",").entries()) {
    const trimmed = entry.trim().toLowerCase();
    if (trimmed === "") continue;
    const pattern = parseHostEntry(trimmed);
    if (typeof pattern === "string") problems.push({ position: index + 1, message: pattern });
    else hosts.push(pattern);
  }
  return problems.length > 0 ? { ok: false, problems } : { ok: true, hosts };
}

/** The pattern of one lower-case entry, or what is wrong with it. */
function parseHostEntry(entry: string): HostPattern | string {
  const below = entry.startsWith("*.");
  const authority = splitAuthority(below ? entry.slice(2) : entry);
  if (!authority) return "is neither a host, host:port nor *.suffix";
  const { host, port } = authority;
  if (port !== undefined && !isPort(port)) return "has a port that is not a number from 1 to 65535";
  if (host.startsWith("[")) {
    const canonical = canonicalHost(host);
    if (below || canonical === undefined) return "is not an IPv6 address in brackets";
    return listableAddress(canonical) ?? { kind: "exact", host: canonical, port };
  }
  if (host.endsWith(".")) return "ends in a dot";
  if (host.length > MAX_HOST_CHARACTERS || !HOST_NAME.test(host)) {
    return "holds characters that a host name does not have; write international names as xn--";
  }
  if (below) {
    if (!host.includes(".")) return "allows a whole top-level domain";
    if (PUNYCODE_LABEL.test(host)) return "is a pattern with an xn-- label; such hosts are listed one by one";
    // A host that ends in a number is an address to the URL parser, so nothing can stand below it.
    if (canonicalHost(`a.${host}`) !== `a.${host}`) return "is a pattern no host can match";
    if (isPublicSuffix(host)) {
      return "is a pattern over a public suffix, below which anybody can have a host";
    }
    return { kind: "below", host, port };
  }
  if (canonicalHost(host) !== host) return "is not a host, or is an address in an unusual notation";
  return listableAddress(host) ?? { kind: "exact", host, port };
}

/** What is wrong with listing this host because of its address range; undefined for names and public ones. */
function listableAddress(canonical: string): string | undefined {
  const range = addressRangeOf(canonical);
  return range === undefined || LOOPBACK_HOSTS.has(canonical)
    ? undefined
    : "is an address that no push may go to, listed or not";
}

/**
 * Decides whether a push may be sent to `url`, from its text alone.
 *
 * Accepted are `wss:` URLs of a listed host at the port its entry names, 443 where it names none. The
 * loopback hosts `localhost`, `127.0.0.1` and `[::1]` are accepted when they are listed themselves: by
 * `ws:` or `wss:`, and at any port unless the entry names one. That is how local development says so.
 * Path and query are free.
 *
 * Returns the URL, parsed where more is asked of it than its host; what is stored stays the text that was checked,
 * since the parser may rewrite a query. A refusal has a stable reason, and a detail that holds at most the host,
 * never path, query, userinfo or port. Never throws.
 */
export function checkPushTarget(url: string, allowed: AllowedHosts): PushTarget {
  const origin = url.length > MAX_URL_CHARACTERS ? undefined : USUAL_URL.exec(url)?.[1];
  if (origin === undefined) return checkWhole(url, allowed);
  const verdict = checkOrigin(origin, allowed);
  return verdict.ok ? new Target(url, verdict) : verdict;
}

/** A URL as nearly all are written, with nothing that a parser repairs: what is decided of it is decided of its origin. */
const USUAL_URL = /^(wss?:\/\/[a-z0-9.-]+(?::\d{1,5})?)(?:[/?][\u0021\u0022\u0024-\u005b\u005d-\u007e]*)?$/;

/** What was decided of origins, by the list that decided. Sessions have many URLs, and few hosts. */
const checkedOrigins = new WeakMap<AllowedHosts, Map<string, PushTarget>>();
const MAX_ORIGINS = 100;

function checkOrigin(origin: string, allowed: AllowedHosts): PushTarget {
  const known = checkedOrigins.get(allowed) ?? new Map<string, PushTarget>();
  const remembered = known.get(origin);
  if (remembered !== undefined) return remembered;
  // Whoever may register can make up as many as they like.
  if (known.size === MAX_ORIGINS) known.clear();
  const verdict = checkWhole(`${origin}/`, allowed);
  checkedOrigins.set(allowed, known.set(origin, verdict));
  return verdict;
}

/** A URL that was checked, parsed where more is asked of it than whose it is. */
class Target implements Place {
  readonly ok = true;
  readonly hostname: string;
  readonly host: string;
  readonly #text: string;
  #url: URL | undefined;

  /** `place` is the URL itself, or another of its origin. */
  constructor(text: string, place: URL | Target) {
    this.#text = text;
    this.#url = place instanceof URL ? place : undefined;
    this.hostname = place.hostname;
    this.host = place.host;
  }

  get url(): URL {
    this.#url ??= new URL(this.#text);
    return this.#url;
  }

  get pathname(): string {
    return this.url.pathname;
  }
}

/** Decides it of any text, remembering nothing. */
function checkWhole(url: string, allowed: AllowedHosts): PushTarget {
  const target = checkAddress(url, "wss", allowed);
  if (!target.ok) return target;
  const { hostname: host, protocol } = target.url;
  const entries = allowed.filter((pattern) => matches(pattern, host));
  if (entries.length === 0) {
    return PUNYCODE_LABEL.test(host)
      ? refuse("punycode_host", `The host ${host} has an xn-- label and is not listed itself.`)
      : refuse("host_not_allowed", `The host ${host} is not in the list of allowed hosts.`);
  }
  const port = target.url.port || (protocol === "ws:" ? "80" : "443");
  const atPort = (entry: HostPattern) =>
    entry.port === undefined ? LOOPBACK_HOSTS.has(host) || port === "443" : entry.port === port;
  if (!entries.some(atPort)) {
    return refuse("port_not_allowed", `The host ${host} is not allowed at this port.`);
  }
  return target;
}

/**
 * Decides whether signed messages may be sent to a URL that the operator wrote, from its text alone: `https:`, any
 * port, any host of the internet. What is refused of session URLs whatever is listed is refused here too, and so
 * are the names of private networks and names with an xn-- label. Loopback hosts are accepted, by `http:` too,
 * where `allowed` lists them.
 *
 * Returns and refuses as `checkPushTarget` does. Never throws.
 */
export function checkOutboundTarget(url: string, allowed: AllowedHosts): PushTarget {
  const target = checkAddress(url, "https", allowed);
  if (!target.ok) return target;
  const { hostname: host } = target.url;
  if (isListedLoopback(host, allowed)) return target;
  if (PRIVATE_NAME.test(host) || (!host.includes(".") && !host.startsWith("["))) {
    return refuse("private_name", `The host ${host} is a name of a private network.`);
  }
  return PUNYCODE_LABEL.test(host) ? refuse("punycode_host", `The host ${host} has an xn-- label.`) : target;
}

/**
 * Decides what every address must be like, whatever hosts are wanted: `secure` is its scheme, the plain one is for listed
 * loopback hosts. Returns and refuses as `checkPushTarget` does. Never throws.
 */
export function checkAddress(url: string, secure: "wss" | "https", allowed: AllowedHosts): PushTarget {
  const plain = secure === "wss" ? "ws" : "http";
  if (url.length > MAX_URL_CHARACTERS) {
    return refuse("too_long", `The URL is longer than ${MAX_URL_CHARACTERS} characters.`);
  }
  if (FORBIDDEN_CHARACTER.test(url)) {
    return refuse("forbidden_character", "The URL holds a blank, a control character or a backslash.");
  }
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(url)?.[1]?.toLowerCase();
  if (scheme === undefined) return refuse("not_absolute", "The URL does not begin with a scheme.");
  if (scheme !== secure && scheme !== plain) {
    return refuse("scheme_not_allowed", `The URL's scheme is not ${secure}.`);
  }
  // In the text, because the parser does not tell an empty fragment or userinfo from none.
  if (url.includes("#")) return refuse("fragment", "The URL has a fragment.");
  const rawAuthority = /^\/\/([^/?]*)/.exec(url.slice(scheme.length + 1))?.[1];
  if (!rawAuthority) return refuse("no_host", "The URL names no host.");
  if (rawAuthority.includes("@")) return refuse("userinfo", "The URL has a user name or password.");
  if (rawAuthority.includes("%")) return refuse("percent_encoded_host", "The URL's host is percent-encoded.");
  if (/[^\u0021-\u007e]/.test(rawAuthority)) {
    return refuse("non_ascii_host", "The URL's host is not written in ASCII.");
  }

  const authority = splitAuthority(rawAuthority.toLowerCase());
  if (!authority) return refuse("malformed_host", "The URL's host is malformed.");
  if (authority.port !== undefined && !isPort(authority.port)) {
    return refuse("malformed_port", "The URL's port is not a number from 1 to 65535.");
  }
  if (authority.host.endsWith(".")) return refuse("trailing_dot", "The URL's host ends in a dot.");
  const isBracketed = authority.host.startsWith("[");
  if (!isBracketed && (authority.host.length > MAX_HOST_CHARACTERS || !HOST_NAME.test(authority.host))) {
    return refuse("malformed_host", "The URL's host is malformed.");
  }
  const parsed = parseUrl(url);
  if (!parsed) return refuse("malformed_host", "The URL's host is malformed.");

  const host = parsed.hostname;
  const isLocal = isListedLoopback(host, allowed);
  const range = isLocal ? undefined : addressRangeOf(host);
  if (range !== undefined) {
    return refuse(range, `The host ${host} is an address that no push may go to.`);
  }
  // The strong form of all checks above: the host that was checked is the host that will be dialled.
  if (host !== authority.host) {
    return refuse("address_notation", `The host ${host} is not written in its usual notation.`);
  }
  if (scheme === plain && !isLocal) {
    return refuse(
      "scheme_not_allowed",
      `The URL's scheme is ${plain}, which is for listed loopback hosts only.`,
    );
  }
  return new Target(url, parsed);
}

function isListedLoopback(host: string, allowed: AllowedHosts): boolean {
  return LOOPBACK_HOSTS.has(host) && allowed.some((pattern) => matches(pattern, host));
}

/**
 * Whether `url` belongs to ElevenLabs, where dialling opens a new conversation instead of joining the running
 * one. Wider than the allow list on purpose: true is the answer that dials nothing, so a residency that
 * is added tomorrow and reached by a `*.elevenlabs.io` entry counts already, whatever its path. At the host of
 * `apiUrl` (an origin), which may be a gateway that has other things besides, what is below ElevenLabs' own path counts.
 */
export function isElevenLabsConversationUrl(url: Place, apiUrl: string): boolean {
  const host = url.hostname.replace(/\.$/, "");
  if (host === "elevenlabs.io" || host.endsWith(".elevenlabs.io")) return true;
  return url.host === hostOf(apiUrl) && url.pathname.startsWith("/v1/convai/");
}

const hostOf = lastOf((url: string) => new URL(url).host);

/**
 * Whether the ElevenLabs API key may be sent to the host of `url`: one of the API hosts, at their port, or the
 * host of `apiUrl` (an origin). Never a host that only a pattern allows.
 */
export function mayHoldElevenLabsKey({ host }: Pick<Place, "host">, apiUrl: string): boolean {
  return ELEVENLABS_HOSTS.includes(host) || host === hostOf(apiUrl);
}

function refuse(reason: PushTargetRefusal, detail: string): PushTarget {
  return { ok: false, reason, detail };
}

/** An xn-- label can look like any other name, so only a person who listed that very host vouches for it. */
function matches(pattern: HostPattern, host: string): boolean {
  return pattern.kind === "exact"
    ? pattern.host === host
    : host.endsWith(`.${pattern.host}`) && !PUNYCODE_LABEL.test(host);
}

/** Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`; undefined for any other shape. */
function splitAuthority(authority: string): { host: string; port: string | undefined } | undefined {
  const parts = /^(\[[0-9a-f:.]+\]|[^:[\]]+)(?::(.*))?$/.exec(authority);
  const host = parts?.[1];
  return host === undefined ? undefined : { host, port: parts?.[2] };
}

function isPort(text: string): boolean {
  return PORT.test(text) && Number(text) <= 65_535;
}

function parseUrl(text: string): URL | undefined {
  return URL.parse(text) ?? undefined;
}

/** The host as the URL parser writes it, undefined where it refuses it. */
function canonicalHost(host: string): string | undefined {
  return parseUrl(`wss://${host}/`)?.hostname;
}

/* Addresses ------------------------------------------------------------------------------------------- */

/** Why an address is no place for a push. */
export type AddressRange =
  | "loopback_address"
  | "private_address"
  | "shared_address"
  | "link_local_address"
  | "metadata_address"
  | "multicast_address"
  | "unspecified_address"
  | "reserved_address"
  | "embedded_ipv4_address";

/** As a number of 32 or 128 bits, so that a range is one shift and one comparison. */
type Address = { bits: 32 | 128; value: bigint };

/**
 * The IANA special-purpose registries, first match wins:
 * https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry.
 * Single metadata addresses come from the clouds' own documentation.
 */
const RANGES: readonly { base: Address; prefixBits: number; range: AddressRange }[] = (
  [
    ["169.254.169.254/32", "metadata_address"], // AWS, Google, Azure and others
    ["169.254.170.2/32", "metadata_address"], // AWS task credentials
    ["100.100.100.200/32", "metadata_address"], // Alibaba
    ["192.0.0.192/32", "metadata_address"], // Oracle
    ["168.63.129.16/32", "metadata_address"], // Azure's wire server: a public address that only guests reach
    ["0.0.0.0/8", "unspecified_address"],
    ["10.0.0.0/8", "private_address"],
    ["100.64.0.0/10", "shared_address"], // carrier-grade NAT, RFC 6598
    ["127.0.0.0/8", "loopback_address"],
    ["169.254.0.0/16", "link_local_address"],
    ["172.16.0.0/12", "private_address"],
    ["192.0.0.0/24", "reserved_address"],
    ["192.0.2.0/24", "reserved_address"], // documentation
    ["192.88.99.0/24", "reserved_address"], // 6to4 relays
    ["192.168.0.0/16", "private_address"],
    ["198.18.0.0/15", "reserved_address"], // benchmarks
    ["198.51.100.0/24", "reserved_address"], // documentation
    ["203.0.113.0/24", "reserved_address"], // documentation
    ["224.0.0.0/4", "multicast_address"],
    ["240.0.0.0/4", "reserved_address"],
    ["[fd00:ec2::254]/128", "metadata_address"], // AWS
    ["[::]/128", "unspecified_address"],
    ["[::1]/128", "loopback_address"],
    ["[::]/96", "embedded_ipv4_address"], // IPv4-compatible
    ["[::ffff:0:0]/96", "embedded_ipv4_address"], // IPv4-mapped
    ["[::ffff:0:0:0]/96", "embedded_ipv4_address"], // IPv4-translated, RFC 2765
    ["[64:ff9b::]/96", "embedded_ipv4_address"], // NAT64
    ["[64:ff9b:1::]/48", "embedded_ipv4_address"], // NAT64, local use
    ["[2001::]/32", "embedded_ipv4_address"], // Teredo
    ["[2002::]/16", "embedded_ipv4_address"], // 6to4
    ["[2001::]/23", "reserved_address"], // protocol assignments
    ["[2001:db8::]/32", "reserved_address"], // documentation
    ["[3fff::]/20", "reserved_address"], // documentation
    ["[fc00::]/7", "private_address"],
    ["[fe80::]/10", "link_local_address"],
    ["[fec0::]/10", "private_address"], // site-local, deprecated
    ["[ff00::]/8", "multicast_address"],
  ] as const
).map(([block, range]) => {
  const slash = block.lastIndexOf("/");
  const base = addressOf(block.slice(0, slash));
  if (!base) throw new Error(`${block} is not an address block`);
  return { base, prefixBits: Number(block.slice(slash + 1)), range };
});

/** Only this part of the IPv6 space is handed out as global unicast (RFC 4291 §2.4, IANA). */
const GLOBAL_UNICAST_TOP_BITS = 0b001n;

/** The special range that a canonical host lies in; undefined for a name or a public address. */
function addressRangeOf(canonical: string): AddressRange | undefined {
  const address = addressOf(canonical);
  if (!address) return undefined;
  for (const { base, prefixBits, range } of RANGES) {
    const shift = BigInt(base.bits - prefixBits);
    if (base.bits === address.bits && base.value >> shift === address.value >> shift) return range;
  }
  const isUnassigned = address.bits === 128 && address.value >> 125n !== GLOBAL_UNICAST_TOP_BITS;
  return isUnassigned ? "reserved_address" : undefined;
}

/**
 * The address of a host as the URL parser writes it: four decimal numbers, or hexadecimal groups in brackets
 * with at most one `::` and no dotted part. Undefined for a name.
 */
function addressOf(canonical: string): Address | undefined {
  if (canonical.startsWith("[")) {
    const [head = "", tail] = canonical.slice(1, -1).split("::");
    const left = head.split(":").filter(Boolean);
    const right = tail?.split(":").filter(Boolean) ?? [];
    const zeros = Array.from({ length: 8 - left.length - right.length }, () => "0");
    return { bits: 128, value: joinNumbers([...left, ...zeros, ...right], 16) };
  }
  if (!/^\d+\.\d+\.\d+\.\d+$/.test(canonical)) return undefined;
  return { bits: 32, value: joinNumbers(canonical.split("."), 8) };
}

/** Numbers of equal width, most significant first, as one; 16-bit ones are hexadecimal, 8-bit ones decimal. */
function joinNumbers(parts: readonly string[], width: 8 | 16): bigint {
  return parts.reduce(
    (value, part) => (value << BigInt(width)) | BigInt(Number.parseInt(part, width === 16 ? 16 : 10)),
    0n,
  );
}
