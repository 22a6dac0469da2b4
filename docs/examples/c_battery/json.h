/* The fields of one flat JSON object. Nested values are checked and skipped. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

enum json_kind { JSON_ABSENT, JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_TEXT, JSON_NESTED };

struct json_field {
    enum json_kind kind;
    double number;
    bool whole_as_written; /* a number without point and exponent */
    char text[808];        /* of a text, or of a number as it is written; 200 characters have at most 800 bytes */
    bool text_is_cut;
};

/* Finds a field.
 * Returns false if the payload is not one JSON object in UTF-8 with finite numbers and nothing behind it, or has the
 * field twice. */
bool json_find(const char *payload, size_t size, const char *name, struct json_field *found);

/* Writes a text with quotes and escapes; returns the number of bytes, 0 if there is no room. */
size_t json_quote(char *at, size_t room, const char *text);

#endif
