package kernel

import (
	"encoding/binary"
	"testing"
)

// TestParseAnswers: an answer is cut into its messages, padded or not; one that
// contradicts itself is an error.
func TestParseAnswers(t *testing.T) {
	t.Parallel()
	message := func(size uint32, kind uint16, data string) []byte {
		b := binary.NativeEndian.AppendUint32(nil, size)
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, 2)
		b = binary.NativeEndian.AppendUint32(b, 7)
		return append(binary.NativeEndian.AppendUint32(b, 0), data...)
	}
	two := append(message(19, 5, "abc\x00"), message(18, 6, "de")...) // the last needs no padding
	for name, test := range map[string]struct {
		answer []byte
		want   []string
		fails  bool
	}{
		"nothing":             {nil, nil, false},
		"two":                 {two, []string{"abc", "de"}, false},
		"a rest":              {append(message(16, 5, ""), 1, 2, 3), []string{""}, false},
		"shorter than itself": {message(20, 5, "abc"), nil, true},
		"less than a header":  {message(15, 5, ""), nil, true},
		"of no length":        {message(0, 5, ""), nil, true},
	} {
		messages, err := parse(nil, test.answer)
		if (err != nil) != test.fails || len(messages) != len(test.want) {
			t.Errorf("%s: %v, %v", name, messages, err)
			continue
		}
		for i, m := range messages {
			if string(m.Data) != test.want[i] || int(m.Header.Type) != 5+i || m.Header.Flags != 2 || m.Header.Seq != 7 {
				t.Errorf("%s: message %d is %+v", name, i, m)
			}
		}
	}
}
