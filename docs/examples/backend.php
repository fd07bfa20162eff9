<?php
// A backend in PHP, with what it has built in only: signs tokens and publishes. README.md beside it says how to run it.
declare(strict_types=1);

$url = getenv('GANNET_URL') ?: 'http://127.0.0.1:8000';

/** A connection token (JWT, HS256). In an application take firebase/php-jwt. */
function token(string $user, int $seconds = 3600): string
{
    $encode = fn (string $data): string => rtrim(strtr(base64_encode($data), '+/', '-_'), '=');
    $claims = ['sub' => $user, 'exp' => time() + $seconds];
    $signed = $encode('{"alg":"HS256","typ":"JWT"}') . '.' . $encode(json_encode($claims, JSON_THROW_ON_ERROR));
    return $signed . '.' . $encode(hash_hmac('sha256', $signed, (string) getenv('TOKEN_SECRET'), true));
}

/** Sends `$data` to all who are subscribed to `$channel`; what went wrong is thrown. */
function publish(string $url, string $channel, array $data): void
{
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => ['X-API-Key: ' . getenv('API_KEY'), 'Content-Type: application/json'],
        'content' => json_encode(['channel' => $channel, 'data' => $data], JSON_THROW_ON_ERROR),
        'timeout' => 5,
    ]]);
    $text = @file_get_contents("$url/api/publish", false, $context);
    if ($text === false) {
        throw new RuntimeException('publish: no answer, or a refusal');
    }
    // An error of the API comes with status 200.
    $answer = json_decode($text, true, 16, JSON_THROW_ON_ERROR);
    if (isset($answer['error'])) {
        throw new RuntimeException("publish: {$answer['error']['message']}");
    }
}

function answer(int $status, string $kind, string $body): void
{
    http_response_code($status);
    header("Content-Type: $kind");
    echo $body;
}

switch (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)) {
    case '/':
        answer(200, 'text/html; charset=utf-8', file_get_contents(__DIR__ . '/page.html'));
        break;
    case '/token':
        // In an application: who is signed in.
        $token = token((string) ($_GET['user'] ?? 'anna'));
        $socket = preg_replace('/^http/', 'ws', $url) . '/connection/websocket';
        answer(200, 'application/json', json_encode(['token' => $token, 'url' => $socket], JSON_THROW_ON_ERROR));
        break;
    case '/say':
        $said = json_decode(file_get_contents('php://input', false, null, 0, 4096), true);
        if (!is_string($said['user'] ?? null) || !is_string($said['text'] ?? null)) {
            answer(400, 'text/plain', "expected user and text\n");
            break;
        }
        try {
            publish($url, 'news', ['user' => $said['user'], 'text' => $said['text']]);
            http_response_code(204);
        } catch (RuntimeException | JsonException $error) {
            answer(502, 'text/plain', $error->getMessage() . "\n");
        }
        break;
    default:
        answer(404, 'text/plain', "not found\n");
}
