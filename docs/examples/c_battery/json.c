#include "json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 32

struct reader {
    const unsigned char *at, *end;
};

static void skip_space(struct reader *r) {
    while (r->at < r->end && strchr(" \t\r\n", *r->at) && *r->at) r->at++;
}

static bool take(struct reader *r, char c) {
    if (r->at == r->end || *r->at != (unsigned char)c) return false;
    r->at++;
    return true;
}

static bool take_word(struct reader *r, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

/* Takes one character of UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool take_utf8(struct reader *r, unsigned *code) {
    unsigned c = *r->at++;
    int more = c < 0x80 ? 0 : c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : -1;
    if (more < 0) return false;
    static const unsigned mask[] = {0x7F, 0x1F, 0x0F, 0x07}, least[] = {0, 0x80, 0x800, 0x10000};
    *code = c & mask[more];
    for (int i = 0; i < more; i++, r->at++) {
        if (r->at == r->end || (*r->at & 0xC0) != 0x80) return false;
        *code = *code << 6 | (*r->at & 0x3F);
    }
    return *code >= least[more] && *code <= 0x10FFFF && (*code < 0xD800 || *code > 0xDFFF);
}

static bool take_hex(struct reader *r, unsigned *code) {
    *code = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        if (r->at == r->end) return false;
        const char *digits = "0123456789abcdef0123456789ABCDEF", *d = strchr(digits, *r->at);
        if (*r->at == 0 || d == NULL) return false;
        *code = *code << 4 | (unsigned)((d - digits) & 15);
    }
    return true;
}

static size_t put_utf8(char *at, unsigned c) {
    if (c < 0x80) return at[0] = (char)c, 1;
    if (c < 0x800) return at[0] = (char)(0xC0 | c >> 6), at[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return at[0] = (char)(0xE0 | c >> 12), at[1] = (char)(0x80 | (c >> 6 & 63)), at[2] = (char)(0x80 | (c & 63)), 3;
    at[0] = (char)(0xF0 | c >> 18), at[1] = (char)(0x80 | (c >> 12 & 63));
    return at[2] = (char)(0x80 | (c >> 6 & 63)), at[3] = (char)(0x80 | (c & 63)), 4;
}

/* Takes a text; `to` may be NULL. */
static bool take_text(struct reader *r, char *to, size_t room, bool *cut) {
    size_t n = 0;
    if (cut) *cut = false;
    if (!take(r, '"')) return false;
    while (r->at < r->end && *r->at != '"') {
        unsigned code = 0;
        if (*r->at < 0x20) return false;
        if (*r->at != '\\') {
            if (!take_utf8(r, &code)) return false;
        } else {
            if (++r->at == r->end) return false;
            const char *names = "\"\\/bfnrt", *values = "\"\\/\b\f\n\r\t", *name = strchr(names, *r->at);
            if (*r->at == 'u') {
                unsigned low;
                r->at++;
                if (!take_hex(r, &code)) return false;
                if (code >= 0xD800 && code < 0xDC00) { /* the first half of a pair */
                    if (!take(r, '\\') || !take(r, 'u') || !take_hex(r, &low) || low < 0xDC00 || low > 0xDFFF) return false;
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                } else if (code >= 0xDC00 && code < 0xE000) {
                    return false;
                }
            } else if (*r->at != 0 && name != NULL) {
                code = (unsigned char)values[name - names];
                r->at++;
            } else {
                return false;
            }
        }
        if (to && n + 5 < room) n += put_utf8(to + n, code);
        else if (cut) *cut = true;
    }
    if (to) to[n] = 0;
    return take(r, '"');
}

static size_t take_digits(struct reader *r) {
    const unsigned char *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return (size_t)(r->at - from);
}

static bool take_number(struct reader *r, struct json_field *to) {
    const unsigned char *from = r->at;
    take(r, '-');
    if (!take(r, '0') && take_digits(r) == 0) return false;
    to->whole_as_written = true;
    if (take(r, '.')) {
        to->whole_as_written = false;
        if (take_digits(r) == 0) return false;
    }
    if (take(r, 'e') || take(r, 'E')) {
        to->whole_as_written = false;
        if (!take(r, '+')) take(r, '-');
        if (take_digits(r) == 0) return false;
    }
    size_t n = (size_t)(r->at - from);
    to->text_is_cut = n >= sizeof to->text;
    if (to->text_is_cut) n = sizeof to->text - 1;
    memcpy(to->text, from, n);
    to->text[n] = 0;
    to->kind = JSON_NUMBER;
    to->number = to->text_is_cut ? HUGE_VAL : strtod(to->text, NULL);
    return to->whole_as_written || isfinite(to->number); /* a long integer is JSON, but no number for us */
}

static bool take_value(struct reader *r, struct json_field *to, int depth);

static bool take_list(struct reader *r, int depth) {
    struct json_field ignored;
    skip_space(r);
    if (take(r, ']')) return true;
    do {
        if (!take_value(r, &ignored, depth)) return false;
    } while (take(r, ','));
    return take(r, ']');
}

static bool take_object(struct reader *r, int depth, const char *name, struct json_field *found) {
    struct json_field field;
    skip_space(r);
    if (take(r, '}')) return true;
    do {
        char key[64];
        bool cut;
        skip_space(r);
        if (!take_text(r, key, sizeof key, &cut)) return false;
        skip_space(r);
        if (!take(r, ':') || !take_value(r, &field, depth)) return false;
        if (found && !cut && strcmp(key, name) == 0) {
            if (found->kind != JSON_ABSENT) return false; /* twice: another reader may take the other one */
            *found = field;
        }
    } while (take(r, ','));
    return take(r, '}');
}

/* Takes a value and the spaces around it. */
static bool take_value(struct reader *r, struct json_field *to, int depth) {
    bool ok;
    if (depth > DEEPEST) return false;
    skip_space(r);
    if (r->at == r->end) return false;
    switch (*r->at) {
    case '{': r->at++; to->kind = JSON_NESTED; ok = take_object(r, depth + 1, NULL, NULL); break;
    case '[': r->at++; to->kind = JSON_NESTED; ok = take_list(r, depth + 1); break;
    case '"': to->kind = JSON_TEXT; ok = take_text(r, to->text, sizeof to->text, &to->text_is_cut); break;
    case 't': to->kind = JSON_TRUE; ok = take_word(r, "true"); break;
    case 'f': to->kind = JSON_FALSE; ok = take_word(r, "false"); break;
    case 'n': to->kind = JSON_NULL; ok = take_word(r, "null"); break;
    default: ok = take_number(r, to);
    }
    skip_space(r);
    return ok;
}

bool json_find(const char *payload, size_t size, const char *name, struct json_field *found) {
    struct reader r = {(const unsigned char *)payload, (const unsigned char *)payload + size};
    found->kind = JSON_ABSENT;
    skip_space(&r);
    if (!take(&r, '{') || !take_object(&r, 1, name, found)) return false;
    skip_space(&r);
    return r.at == r.end;
}

size_t json_quote(char *at, size_t room, const char *text) {
    size_t n = 0;
    if (room < 3) return 0;
    at[n++] = '"';
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (n + 8 > room) return 0;
        if (c == '"' || c == '\\') at[n++] = '\\', at[n++] = (char)c;
        else if (c < 0x20) n += (size_t)snprintf(at + n, room - n, "\\u%04x", c);
        else at[n++] = (char)c;
    }
    at[n++] = '"';
    at[n] = 0;
    return n;
}
