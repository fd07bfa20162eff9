// A backend in Go, with its standard library only: signs tokens and publishes. README.md beside it says how to run it.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

var url = from("GANNET_URL", "http://127.0.0.1:8000")

func from(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// token is a connection token (JWT, HS256). In an application take golang-jwt.
func token(user string, lasts time.Duration) (string, error) {
	claims, err := json.Marshal(map[string]any{"sub": user, "exp": time.Now().Add(lasts).Unix()})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, []byte(os.Getenv("TOKEN_SECRET")))
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil)), nil
}

var client = http.Client{Timeout: 5 * time.Second}

// publish sends data to all who are subscribed to channel.
func publish(channel string, data any) error {
	body, err := json.Marshal(map[string]any{"channel": channel, "data": data})
	if err != nil {
		return err
	}
	request, err := http.NewRequest("POST", url+"/api/publish", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-API-Key", os.Getenv("API_KEY"))
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("publish: %s", response.Status)
	}
	// An error of the API comes with status 200.
	var answer struct {
		Error *struct {
			Code    int
			Message string
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return fmt.Errorf("publish: %s", answer.Error.Message)
	}
	return nil
}

func main() {
	http.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		// In an application: who is signed in.
		user := r.URL.Query().Get("user")
		signed, err := token(user, time.Hour)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		socket := strings.Replace(url, "http", "ws", 1) + "/connection/websocket"
		json.NewEncoder(w).Encode(map[string]string{"token": signed, "url": socket})
	})
	http.HandleFunc("/say", func(w http.ResponseWriter, r *http.Request) {
		var said struct {
			User string `json:"user"`
			Text string `json:"text"`
		}
		if json.NewDecoder(io.LimitReader(r.Body, 4096)).Decode(&said) != nil {
			http.Error(w, "expected user and text", http.StatusBadRequest)
			return
		}
		if err := publish("news", said); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "page.html") })
	log.Fatal(http.ListenAndServe("127.0.0.1:"+from("PORT", "3000"), nil))
}
